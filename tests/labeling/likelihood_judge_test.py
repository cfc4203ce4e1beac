# SPDX-License-Identifier: Apache-2.0
"""Labels by likelihood, on hand-made log-probs and on a real small model."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rlaif_jax.core import batches
from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.engine import scoring
from rlaif_jax.labeling import backends
from rlaif_jax.labeling import likelihood_judge
from rlaif_jax.models import decoder
from tests import testing

TOKENIZER = testing.CharTokenizer(bos=True)
FUNCTIONS = decoder.functions(
  testing.tiny_decoder(TOKENIZER.vocab_size, max_length=96)
)


def pair(first, second, context="doc", number=0):
  return records.Pair(
    id=f"p{number}", context=context, first=first, second=second
  )


class Table:
  """log P(text | prompt) from a table; a token is a character."""

  name = "table"

  def __init__(self, given, alone):
    self.given, self.alone = given, alone
    self.prompts = []

  def log_likelihoods(self, prompts, texts):
    self.prompts.append(list(prompts))
    rows = [
      ((self.given if "doc" in p else self.alone)[t], len(t))
      for p, t in zip(prompts, texts, strict=True)
    ]
    return rows, records.Usage(requests=len(texts))


BACKEND = Table({"ab": -3.0, "abcd": -4.0}, {"ab": -3.5, "abcd": -7.0})


@pytest.mark.parametrize(
  "score, gap",
  [
    ("log_prob", -3.0 - -4.0),
    ("mean_log_prob", -3.0 / 2 - -4.0 / 4),
    ("pmi", (-3.0 + 3.5) - (-4.0 + 7.0)),
    ("mean_pmi", 0.5 / 2 - 3.0 / 4),
  ],
)
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_each_score_is_its_formula(score, gap, temperature):
  config = likelihood_judge.LikelihoodJudgeConfig(
    score=score, temperature=temperature
  )

  def ask(row):
    ((label,), _) = likelihood_judge.judge_pairs(
      [row], BACKEND, config, tokenizer=TOKENIZER
    )
    return label

  label = ask(pair("ab", "abcd"))
  expected = 1 / (1 + math.exp(-gap / temperature))
  assert label.p_first == pytest.approx(expected, rel=1e-12)
  assert label.p_orders == () and label.labeler == "table"
  swapped = ask(pair("abcd", "ab"))
  assert swapped.p_first == pytest.approx(1 - expected, rel=1e-12)
  assert ask(pair("ab", "ab")).p_first == 0.5


def test_pairs_without_a_likelihood_are_set_aside():
  given = {"ab": -3.0, "nan": math.nan}
  quarantine = jsonl.Quarantine()
  rows = [pair("", "ab"), pair("ab", "nan"), pair("ab", "ab"), pair("", "")]
  labels, _ = likelihood_judge.judge_pairs(
    rows,
    Table(given, given),
    likelihood_judge.LikelihoodJudgeConfig(score="log_prob"),
    tokenizer=TOKENIZER,
    quarantine=quarantine,
  )
  assert [label.p_first for label in labels] == [0.5, 0.5]
  assert [row["reason"] for row in quarantine.rows] == [
    "empty response",
    "non-finite likelihood",
  ]


def test_contexts_are_cut_and_it_is_said():
  backend = Table({"ab": -1.0, "abcd": -2.0}, {})
  config = likelihood_judge.LikelihoodJudgeConfig(
    score="log_prob", before="Read.\n", between="\n=\n", max_context_tokens=5
  )
  ((label,), _) = likelihood_judge.judge_pairs(
    [pair("ab", "abcd", context="doc and more")],
    backend,
    config,
    tokenizer=TOKENIZER,
  )
  assert backend.prompts == [["Read.\ndoc a\n=\n"] * 2]
  assert label.cut_tokens == 7 and label.context == "doc and more"


def test_the_flax_backend_sums_log_probs_of_the_text_alone():
  params = testing.build(FUNCTIONS)
  backend = backends.FlaxBackend(
    FUNCTIONS, params, TOKENIZER, name="tiny", batch_size=2, bucket=8
  )
  prompts = ["one\n", "a longer prompt\n", "x\n"]
  texts = ["abc", "d", "a text of some length"]
  found, usage = backend.log_likelihoods(prompts, texts)
  for prompt, text, (total, tokens) in zip(prompts, texts, found, strict=True):
    ids = [TOKENIZER.bos_id, *TOKENIZER.encode(prompt + text)]
    batch = batches.TokenBatch(
      tokens=np.asarray([ids], np.int32),
      valid=np.ones((1, len(ids)), bool),
      weights=np.ones((1, len(text)), np.float32),
    )
    alone = scoring.response_log_probs(FUNCTIONS, params, batch)
    assert total == pytest.approx(float(np.sum(alone)), abs=1e-4)
    assert tokens == len(text)
  assert usage.requests == 3
  assert usage.input_tokens == 3 + sum(map(len, prompts)) + sum(map(len, texts))
  with pytest.raises(ValueError, match="empty text"):
    backend.log_likelihoods(["a\n"], [""])


def test_estimates_and_settings():
  row = pair("ab", "abcd", context="x" * 9)
  for score, tokens in (("log_prob", 24), ("pmi", 30)):
    config = likelihood_judge.LikelihoodJudgeConfig(score=score)
    usage, most = likelihood_judge.expected_usage(row, config, TOKENIZER)
    assert usage == most and usage.input_tokens == tokens
  one, two = (
    likelihood_judge.LikelihoodJudgeConfig(score=s).fingerprint("b")
    for s in ("pmi", "log_prob")
  )
  assert one != two
  for bad in (
    {"score": "ppl"},
    {"temperature": 0.0},
    {"max_context_tokens": 0},
    {"between": "no newline"},
  ):
    with pytest.raises(ValueError, match=next(iter(bad))):
      likelihood_judge.LikelihoodJudgeConfig(**bad)
