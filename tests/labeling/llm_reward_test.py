# SPDX-License-Identifier: Apache-2.0
"""The d-RLAIF score on the device equals the rating of the same text."""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np
import pytest

from rlaif_jax.core import batches
from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.data import converters
from rlaif_jax.labeling import backends
from rlaif_jax.labeling import likelihood_judge
from rlaif_jax.labeling import llm_reward
from rlaif_jax.labeling import option_probs
from rlaif_jax.labeling import pointwise_judge
from rlaif_jax.models import decoder
from rlaif_jax.text import prompts
from tests import testing

TEXTS = (("ab cd", "ef"), ("a", "bcd e"), ("abcdef", "g"))


@pytest.mark.parametrize(
  "words, chat", [((), ("", "")), (("10",), ("<user>\n", "</s>\n<bot>\n"))]
)
def test_it_equals_the_rating_of_the_rendered_prompt(words, chat):
  """ "10" as one token or as two; the end token is not part of the text."""
  tokenizer = testing.CharTokenizer(words, bos=True)
  tokenizer.fingerprint = "chars"
  functions = decoder.functions(testing.tiny_decoder(tokenizer.vocab_size))
  params = testing.build(functions)
  template = prompts.load("docstring_rating")
  score = llm_reward.labeler_scorer(
    functions,
    tokenizer,
    parts=template.pointwise_parts(),
    options=template.options,
    chat=chat,
  )
  config = converters.SequenceConfig(max_context=8, max_response=7)
  batch, _ = converters.encode_prompts([c for c, _ in TEXTS], tokenizer, config)
  response, mask, _ = converters.encode_responses(
    [r for _, r in TEXTS], tokenizer, 7
  )
  result = jax.jit(score.score)(
    score.prepare(params), batch, response[:, None], mask[:, None]
  )

  backend = backends.FlaxBackend(
    functions, params, tokenizer, name="tiny", chat=chat
  )
  examples = [
    records.Example(id=str(i), context=c, response=r)
    for i, (c, r) in enumerate(TEXTS)
  ]
  ratings, _ = pointwise_judge.judge_responses(
    examples,
    backend,
    pointwise_judge.PointwiseJudgeConfig(
      template="docstring_rating", max_context_tokens=200
    ),
    tokenizer=tokenizer,
  )
  expected = [option_probs.to_reward(r.score) for r in ratings]
  np.testing.assert_allclose(result[:, 0], expected, atol=1e-5)
  assert np.std(expected) > 1e-6


def test_what_stands_behind_the_end_changes_nothing():
  tokenizer = testing.CharTokenizer(bos=True)
  functions = decoder.functions(testing.tiny_decoder(tokenizer.vocab_size))
  params = testing.build(functions)
  template = prompts.load("docstring_rating")
  scorer = llm_reward.labeler_scorer(
    functions,
    tokenizer,
    parts=template.pointwise_parts(),
    options=template.options,
  )
  score = functools.partial(jax.jit(scorer.score), scorer.prepare(params))
  config = converters.SequenceConfig(max_context=8, max_response=7)
  batch, _ = converters.encode_prompts(["ab", "cde"], tokenizer, config)
  texts, valid, _ = converters.encode_responses(["x", "yz"], tokenizer, 7)
  response, mask = texts[:, None], valid[:, None]
  assert isinstance(batch, batches.PromptBatch)
  spoiled = np.where(mask > 0, response, 50)
  np.testing.assert_array_equal(
    score(batch, response, mask), score(batch, response=spoiled, mask=mask)
  )


def test_sharing_the_prefix_and_the_context_changes_nothing():
  """Two responses of each context, shared and each prompt read whole."""
  tokenizer = testing.CharTokenizer(bos=True)
  functions = decoder.functions(testing.tiny_decoder(tokenizer.vocab_size))
  params = testing.build(functions)
  template = prompts.load("docstring_rating")
  config = converters.SequenceConfig(max_context=8, max_response=7)
  batch, _ = converters.encode_prompts(["ab", "cde"], tokenizer, config)
  texts = ["x", "yz a", "q", "ab"]
  response, mask, _ = converters.encode_responses(texts, tokenizer, 7)
  response, mask = (x.reshape(2, 2, 7) for x in (response, mask))
  scorers = [
    llm_reward.labeler_scorer(
      model,
      tokenizer,
      parts=template.pointwise_parts(),
      options=template.options,
    )
    for model in (functions, dataclasses.replace(functions, cache=None))
  ]
  labelers = [scorer.prepare(params) for scorer in scorers]
  # The preamble is read by `prepare`, and by nothing after it.
  begin = 1 + len(tokenizer.encode(template.pointwise_parts()[0]))
  assert labelers[0].prefix.positions.shape == (1, begin)
  assert labelers[1].prefix is None
  scores = [
    jax.jit(scorer.score)(rater, batch, response, mask)
    for scorer, rater in zip(scorers, labelers, strict=True)
  ]
  assert np.std(scores[0]) > 1e-6
  np.testing.assert_allclose(scores[0], scores[1], atol=1e-5)


@pytest.mark.parametrize("score", ["pmi", "mean_pmi"])
@pytest.mark.parametrize("chat", [("", ""), ("<user>\n", "</s>\n<bot>\n")])
def test_a_likelihood_equals_the_judge_s(score, chat):
  """Both responses of a pair; the end token is not part of the text."""
  tokenizer = testing.CharTokenizer(bos=True)
  functions = decoder.functions(testing.tiny_decoder(tokenizer.vocab_size))
  params = testing.build(functions)
  scorer = llm_reward.likelihood_scorer(
    functions,
    tokenizer,
    between="\nso:\n",
    chat=chat,
    per_token=score == "mean_pmi",
  )
  config = converters.SequenceConfig(max_context=8, max_response=7)
  batch, _ = converters.encode_prompts([c for c, _ in TEXTS], tokenizer, config)
  answers = [r for _, first in TEXTS for r in (first, "zy" + first)]
  response, mask, _ = converters.encode_responses(answers, tokenizer, 7)
  reward = jax.jit(scorer.score)(
    scorer.prepare(params),
    batch,
    response.reshape(3, 2, 7),
    mask.reshape(3, 2, 7),
  )
  backend = backends.FlaxBackend(
    functions, params, tokenizer, name="tiny", chat=chat
  )
  pairs = [
    records.Pair(id=str(i), context=c, first=first, second="zy" + first)
    for i, (c, first) in enumerate(TEXTS)
  ]
  labels, _ = likelihood_judge.judge_pairs(
    pairs,
    backend,
    likelihood_judge.LikelihoodJudgeConfig(score=score, between="\nso:\n"),
    tokenizer=tokenizer,
    quarantine=jsonl.Quarantine(),
  )
  odds = [np.log(x.p_first / (1 - x.p_first)) for x in labels]
  np.testing.assert_allclose(reward[:, 0] - reward[:, 1], odds, atol=1e-4)
  assert np.std(odds) > 1e-3


def test_an_empty_response_has_no_likelihood_gain():
  tokenizer = testing.CharTokenizer(bos=True)
  functions = decoder.functions(testing.tiny_decoder(tokenizer.vocab_size))
  scorer = llm_reward.likelihood_scorer(functions, tokenizer, between="\n")
  config = converters.SequenceConfig(max_context=8, max_response=4)
  batch, _ = converters.encode_prompts(["ab"], tokenizer, config)
  response, mask, _ = converters.encode_responses(["", "ab"], tokenizer, 4)
  reward = scorer.score(
    scorer.prepare(testing.build(functions)), batch, response[None], mask[None]
  )
  assert reward[0, 0] == 0.0 and reward[0, 1] != 0.0
