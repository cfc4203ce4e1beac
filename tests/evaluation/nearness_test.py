# SPDX-License-Identifier: Apache-2.0
"""Nearness to a human line: exact values, and what does not pay."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from rlaif_jax.core import records
from rlaif_jax.evaluation import gold
from rlaif_jax.evaluation import nearness

LINE = "compiler cache for repeated builds"


def embed(texts):
  """Unit vectors of the counts of the letters a to z; "" gives zeros."""
  counts = np.asarray(
    [[t.count(chr(97 + i)) for i in range(26)] for t in texts]
  )
  norms = np.linalg.norm(counts, axis=1, keepdims=True)
  return (counts / np.maximum(norms, 1)).astype(np.float32)


def total(text, reference=LINE, **config):
  config = nearness.NearnessConfig(**config)
  return nearness.score([text], [reference], embed, config).total[0]


def test_chrf_by_hand():
  assert nearness.character_ngrams("Ab b", 2) == {"ab": 1, "bb": 1}
  # Order 1: 2 of 2 and 2 of 3; order 2: 1 of 1 and 1 of 2; order 3: recall 0.
  precision, recall = 1.0, (2 / 3 + 1 / 2 + 0) / 3
  assert nearness.chrf("ab", "abc") == pytest.approx(
    2 * precision * recall / (precision + recall)
  )
  assert nearness.chrf("aa", "a") == pytest.approx(
    2 * (1 / 2 + 0) / 2 / (1 + 1 / 4) * 1.0
  )
  # Orders 1 to 6 of a text that lacks the last of seven letters.
  recall = np.mean([n / (n + 1) for n in range(1, 7)])
  assert nearness.chrf("abcdef", "abcdefg") == pytest.approx(
    2 * recall / (1 + recall)
  )
  assert nearness.chrf("abc", "xyz") == 0.0
  assert nearness.chrf("A b C", "abc") == 1.0


@pytest.mark.parametrize("one, other", [("", "a"), ("a", ""), ("", "")])
def test_chrf_of_nothing_is_0(one, other):
  assert nearness.chrf(one, other) == 0.0


def test_chrf_is_symmetric_so_that_length_does_not_pay():
  short, long = "compiler cache", "compiler cache for the many builds there are"
  assert nearness.chrf(short, long) == pytest.approx(nearness.chrf(long, short))


@pytest.mark.parametrize(
  "text, obeyed",
  [
    (LINE, 5),
    ("The compiler cache", 4),
    ("a cache", 4),
    ("another cache", 5),
    ("compiler cache.", 4),
    ("cache\ncompiler", 4),
    ("cache for the compiler cache", 4),
    ("x" * 80, 5),
    ("x" * 81, 4),
    ("A cache\nof a cache" + "!" * 80 + ".", 0),
    ("", 0),
  ],
)
def test_rules(text, obeyed):
  assert nearness.rules(text) == obeyed / 5


def test_the_human_line_gets_1_and_an_empty_one_0():
  assert total(LINE) == pytest.approx(1.0)
  assert total("") == total("  \n") == 0.0

  def alike(texts):
    return np.ones((len(texts), 1), np.float32)

  assert nearness.score(["x"], ["y"], alike).parts["similarity"][0] == 1.0
  found = nearness.score([" "], [LINE], alike)
  assert found.total[0] == 0.0
  assert {name: v[0] for name, v in found.parts.items()} == {
    "similarity": 0.0,
    "chrf": 0.0,
    "rules": 0.0,
  }


def test_worse_texts_get_less():
  words = "builds repeated for cache compiler"
  assert total(LINE) > total(words) > total("zebra quiz in my jumpy box") + 0.1


def test_the_total_is_the_weighted_mean_of_the_parts():
  weights = {"similarity": 3.0, "chrf": 2.0, "rules": 1.0}
  text = "the cache for builds"
  found = nearness.score(
    [text], [LINE], embed, nearness.NearnessConfig(**weights)
  )
  parts = {name: values[0] for name, values in found.parts.items()}
  a, b = embed([text, LINE]).astype(np.float64)
  assert parts["similarity"] == pytest.approx(a @ b)
  assert parts["chrf"] == nearness.chrf(text, LINE)
  assert parts["rules"] == 0.8
  expected = sum(weights[name] * parts[name] for name in parts) / 6
  assert found.total[0] == pytest.approx(expected)


def test_a_negative_cosine_counts_as_0():
  def opposite(texts):
    return np.asarray([[(-1.0) ** i] for i in range(len(texts))], np.float32)

  found = nearness.score(["a"], ["b"], opposite)
  assert found.parts["similarity"][0] == 0.0


@pytest.mark.parametrize(
  "field", [f.name for f in dataclasses.fields(nearness.NearnessConfig)]
)
def test_every_option_changes_the_total(field):
  value = getattr(nearness.NearnessConfig(), field)
  text = "the cache for builds"
  changed = 5 if field == "max_characters" else 2 * value
  assert total(text) != pytest.approx(total(text, **{field: changed}))


def test_weights_of_0_are_refused():
  with pytest.raises(ValueError, match="at least one weight"):
    nearness.NearnessConfig(similarity=0, chrf=0, rules=0)


def test_the_reward_finds_the_line_of_each_document():
  reward = nearness.reward({"x": LINE, "y": "red zebra"}, embed)
  found = reward(["y", "x", "x"], ["red zebra", LINE, "red zebra"]).total
  np.testing.assert_allclose(found[:2], 1.0)
  assert found[2] < 0.9
  with pytest.raises(ValueError, match="1 of 2 documents.*'z'"):
    reward(["x", "z"], ["a", "b"])


def test_simulated_raters_follow_it():
  pairs = [
    records.Pair(context=c, first=a, second=b)
    for c, a, b in (("x", LINE, "zebra"), ("y", LINE, "red zebra"))
  ]
  reward = nearness.reward({"x": LINE, "y": "red zebra"}, embed)
  config = gold.HumanConfig(temperature=1e-3)
  labels, summary = gold.rate_pairs(pairs, config, reward)
  assert [label.p_first for label in labels] == [1.0, 0.0]
  assert summary["follows_gold"] == 1.0


def test_rouge_l_is_that_of_all_common_subsequences():
  def longest(a, b):
    return max(
      n
      for n in range(len(a) + 1)
      for part in itertools.combinations(a, n)
      if part in set(itertools.combinations(b, n))
    )

  generator = np.random.default_rng(0)
  for _ in range(30):
    a, b = (
      [str(w) for w in generator.integers(0, 4, generator.integers(1, 7))]
      for _ in range(2)
    )
    expected = 2 * longest(a, b) / (len(a) + len(b))
    found = nearness.rouge_l(" ".join(a), " ".join(b) + ".")
    assert found == pytest.approx(expected)
  assert nearness.rouge_l("", "a") == 0.0
