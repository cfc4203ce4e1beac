# SPDX-License-Identifier: Apache-2.0
"""The pairwise judge as a reward against a brute-force twin, on the device."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.core import records
from rlaif_jax.data import converters
from rlaif_jax.labeling import backends
from rlaif_jax.labeling import pairwise_judge
from rlaif_jax.labeling import pairwise_reward
from rlaif_jax.models import decoder
from rlaif_jax.text import prompts as prompts_lib
from tests import testing

CONTEXTS = ("ab cd", "e")
# The first and the last sample of the first context are equal.
SAMPLES = (("ef", "bcd e", "g", "ef"), ("a", "bb", "ccc", "d d"))
TOKENIZER = testing.CharTokenizer(bos=True)
TOKENIZER.fingerprint = "chars"
MODEL = decoder.functions(testing.tiny_decoder(TOKENIZER.vocab_size))
TEMPLATE = "docstring_pairwise"
CHAT = ("<user>\n", "</s>\n<bot>\n")


@pytest.fixture(scope="module")
def params():
  built = testing.build(MODEL, 2)

  def larger(path, x):
    return x if "scale" in str(path[-1]) else 3.0 * x

  return jax.tree_util.tree_map_with_path(larger, built)


@pytest.fixture(scope="module")
def judged(params):
  """P(first beats second) of any two texts, one prompt at a time."""
  backend = backends.FlaxBackend(
    MODEL, params, TOKENIZER, name="tiny", chat=CHAT
  )
  config = pairwise_judge.PairwiseJudgeConfig(template=TEMPLATE)

  @functools.cache
  def p_first(context, first, second):
    pair = records.Pair(id="0", context=context, first=first, second=second)
    labels, _ = pairwise_judge.judge_pairs([pair], backend, config)
    return labels[0].p_first

  return p_first


def arrays(samples=SAMPLES):
  config = converters.SequenceConfig(max_context=8, max_response=7)
  prompts, _ = converters.encode_prompts(CONTEXTS, TOKENIZER, config)
  flat = [text for group in samples for text in group]
  response, mask, _ = converters.encode_responses(flat, TOKENIZER, 7)
  shape = (len(samples), len(samples[0]), 7)
  return prompts, response.reshape(shape), mask.reshape(shape)


@functools.cache
def scorer(template=TEMPLATE, flipped=False, **options):
  loaded = prompts_lib.load(template)
  made = pairwise_reward.pairwise_scorer(
    MODEL,
    TOKENIZER,
    parts=loaded.pairwise_parts(),
    options=loaded.options,
    flipped=flipped,
    comparison=pairwise_reward.SampleComparison(**options),
    chat=CHAT,
  )
  return made.prepare, jax.jit(made.score)


def scores(params, samples=SAMPLES, texts=None, **options):
  prepare, score = scorer(**options)
  own = pairwise_reward.PairwiseParams(prepare(params), **(texts or {}))
  return np.asarray(score(own, *arrays(samples)))


def encoded(texts, width):
  tokens = np.zeros((len(texts), width), np.int32)
  valid = np.zeros(tokens.shape, bool)
  for row, text in enumerate(texts):
    ids = TOKENIZER.encode(text)
    tokens[row, : len(ids)], valid[row, : len(ids)] = ids, True
  return jnp.asarray(tokens), jnp.asarray(valid)


def test_all_pairs_are_the_mean_wins_of_every_prompt_by_itself(params, judged):
  expected = [
    [
      np.mean([judged(c, group[i], o) for j, o in enumerate(group) if j != i])
      for i in range(4)
    ]
    for c, group in zip(CONTEXTS, SAMPLES, strict=True)
  ]
  found = scores(params)
  np.testing.assert_allclose(found, expected, atol=1e-4)
  assert found.std() > 0.01
  np.testing.assert_allclose(found.mean(axis=1), 0.5, atol=1e-5)


def test_a_reference_is_the_only_opponent(params, judged):
  references = ("g", "a long one")
  texts = {"references": encoded(references, 12)}
  found = scores(params, texts=texts, compare="reference")
  expected = [
    [judged(c, text, reference) for text in group]
    for c, group, reference in zip(CONTEXTS, SAMPLES, references, strict=True)
  ]
  np.testing.assert_allclose(found, expected, atol=1e-4)
  assert found[0, 2] == 0.5  # It is the reference itself.


@pytest.mark.parametrize("compare", ["all", "ring"])
def test_permuted_samples_permute_rewards(params, compare):
  plain = scores(params, compare=compare)
  for order in ([3, 0, 2, 1], [1, 2, 3, 0]):
    samples = [[group[i] for i in order] for group in SAMPLES]
    found = scores(params, samples, compare=compare)
    np.testing.assert_allclose(found, plain[:, order], atol=1e-5)


@pytest.mark.parametrize("compare", ["all", "ring"])
def test_equal_samples_get_equal_rewards(params, compare):
  found = scores(params, compare=compare)
  assert found[0, 0] == pytest.approx(found[0, 3], abs=1e-6)
  same = scores(params, [["ef"] * 4, ["a"] * 4], compare=compare)
  np.testing.assert_allclose(same, 0.5, atol=1e-6)


def test_a_ring_is_a_cycle_in_some_order(params, judged):
  group = SAMPLES[1]
  found = scores(params, compare="ring")[1]
  matches = 0
  for order in itertools.permutations(range(4)):
    expected = np.zeros(4)
    for place, i in enumerate(order):
      near = (order[place - 1], order[(place + 1) % 4])
      expected[i] = np.mean(
        [judged(CONTEXTS[1], group[i], group[j]) for j in near]
      )
    matches += np.allclose(found, expected, atol=1e-4)
  # A cycle of four has eight orders.
  assert matches == 8
  with_all = scores(params, compare="ring", neighbours=3)
  np.testing.assert_allclose(with_all, scores(params), atol=1e-5)


def test_longer_samples_pay_by_the_mean_length(params):
  plain = scores(params)
  found = scores(params, length_penalty=0.3)
  lengths = np.array([[len(t) for t in group] for group in SAMPLES])
  mean = lengths.mean(axis=1, keepdims=True)
  np.testing.assert_allclose(
    plain - found, 0.3 * (lengths - mean) / mean, atol=1e-5
  )


def test_a_criterion_follows_the_context(params, judged):
  criteria = ("\nbe short", "\nno")
  found = scores(params, texts={"criteria": encoded(criteria, 11)})
  expected = [
    np.mean([judged(c + more, group[1], o) for o in group if o != group[1]])
    for c, more, group in zip(CONTEXTS, criteria, SAMPLES, strict=True)
  ]
  np.testing.assert_allclose(found[1, 1], expected[1], atol=1e-4)
  assert np.abs(found - scores(params)).max() > 1e-4


def test_a_question_for_the_worse_one_turns_the_reward(params):
  found = scores(params, flipped=True)
  np.testing.assert_allclose(found, 1 - scores(params), atol=1e-5)


def test_one_sample_has_nobody_to_be_compared_with():
  with pytest.raises(ValueError, match="at least 2"):
    pairwise_reward.SampleComparison().pairs(1)


def test_wins_of_known_comparisons():
  pairs = pairwise_reward.SampleComparison().pairs(3)
  assert pairs.tolist() == [[0, 1], [1, 2], [0, 2]]
  found = pairwise_reward.group_wins([0.8, None, 0.6], pairs, 3)
  assert found == pytest.approx([0.7, 0.2, 0.4])
  assert pairwise_reward.group_wins([None] * 3, pairs, 3) == [None] * 3
  with_reference = pairwise_reward.SampleComparison(compare="reference").pairs(
    2
  )
  found = pairwise_reward.group_wins([0.8, 0.1], with_reference, 2)
  assert found == pytest.approx([0.8, 0.1])
