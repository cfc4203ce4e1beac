# SPDX-License-Identifier: Apache-2.0
"""The gold reward prefers what a reader prefers; humans are noisy gold."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from rlaif_jax.core import records
from rlaif_jax.evaluation import gold

DOCUMENT = (
  "The cache keeps compiled programs between runs. When the same program is "
  "compiled again, the cache returns the stored program instead of calling "
  "the compiler. Old programs are removed when the cache is full."
)
GOOD = "Keeps compiled programs in a cache between runs, removing old programs."


def total(summary, **config):
  return gold.score(DOCUMENT, summary, gold.GoldConfig(**config)).total


@pytest.mark.parametrize(
  "worse",
  [
    "",
    "Cache.",
    "Draws a red elephant near the quiet harbour before breakfast again.",
    "cache cache cache cache cache cache cache cache cache cache",
    DOCUMENT + " " + DOCUMENT,
  ],
)
def test_a_good_summary_beats_bad_ones(worse):
  assert total(GOOD) > total(worse) + 0.1


def test_parts_by_hand():
  score = gold.score(DOCUMENT, "zebra")
  assert score.coverage == score.faithfulness == 0.0
  assert score.brevity == pytest.approx(0.1)
  assert score.no_repetition == score.form == 1.0
  twice = gold.score(DOCUMENT, "cache cache")
  assert twice.no_repetition == pytest.approx(0.5)
  assert twice.faithfulness == 1.0
  assert gold.score(DOCUMENT, "word " * 28).brevity == 0.0


@pytest.mark.parametrize(
  "field", [f.name for f in dataclasses.fields(gold.GoldConfig)]
)
def test_every_option_changes_the_total(field):
  """Trap: options that nothing reads."""
  texts = (
    "Keeps 1 compiled cache cache of zebra programs !",
    " ".join(["programs"] * 20),
  )
  value = getattr(gold.GoldConfig(), field)
  larger = value + 2 if isinstance(value, int) else value * 2
  assert any(total(t, **{field: larger}) != total(t) for t in texts)


def test_lengths_that_do_not_grow_are_an_error():
  with pytest.raises(ValueError, match="min <= target < max"):
    gold.GoldConfig(target_words=28)


def pairs(n=400):
  words = DOCUMENT.split()
  generator = np.random.default_rng(0)
  result = []
  for i in range(n):
    a, b = (
      " ".join(generator.choice(words, generator.integers(2, 12)))
      for _ in range(2)
    )
    result.append(records.Pair(id=str(i), context=DOCUMENT, first=a, second=b))
  return result


def test_raters_agree_as_often_as_asked():
  labels, facts = gold.rate_pairs(pairs(), gold.HumanConfig(agreement=0.75))
  assert facts["agreement"] == pytest.approx(0.75, abs=1e-3)
  other, _ = gold.rate_pairs(pairs(), gold.HumanConfig(agreement=0.75, seed=1))
  same = np.mean([a.p_first == b.p_first for a, b in zip(labels, other)])
  assert same == pytest.approx(0.75, abs=0.06)


def test_a_rating_does_not_depend_on_the_other_pairs():
  config = gold.HumanConfig(temperature=0.1)
  whole, _ = gold.rate_pairs(pairs(), config)
  part, _ = gold.rate_pairs(pairs()[5:9], config)
  assert whole[5:9] == part


def test_too_many_ties_are_an_error():
  same = [
    records.Pair(id=str(i), context=DOCUMENT, first="a cache", second="a cache")
    for i in range(4)
  ]
  with pytest.raises(ValueError, match="have equal gold"):
    gold.rate_pairs(same, gold.HumanConfig())


def test_grades_run_from_one_to_ten():
  assert [gold.grade(x, 0.2, 0.8) for x in (0.0, 0.21, 0.51, 0.79, 0.9)] == [
    1,
    1,
    6,
    10,
    10,
  ]
