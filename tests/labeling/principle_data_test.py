# SPDX-License-Identifier: Apache-2.0
"""Rows that train a reward model to read principles."""

from __future__ import annotations

import dataclasses
import math

import pytest

from rlaif_jax.core import records
from rlaif_jax.labeling import principle_data
from rlaif_jax.labeling import principles
from tests import testing

TOKENIZER = testing.CharTokenizer()
SHORT = principles.Principle(text="Short.", negation="Long.")
POLITE = principles.Principle(text="Polite.", negation="Rude.")
BOTH = principles.Principles(
  principles=(
    SHORT,
    POLITE,
    principles.Principle(text="Never.", always=True),
  )
)
CONFIG = principle_data.PrincipleDataConfig(flip_probability=0.0)


def label(number, short, polite=(0.5, 0.5)):
  """P(first is better) in both orders by each principle."""
  return records.Preference(
    id=str(number),
    context="doc",
    first="one",
    second="two",
    p_first=0.5,
    labeler="ai",
    rationales=("Short.", "Polite.") * 2,
    p_rationales=(short[0], polite[0], short[1], polite[1]),
  )


def rows(labels, config=CONFIG, known=BOTH):
  return principle_data.rows(labels, known, TOKENIZER, config)


def test_scores_are_log_odds_over_their_variance():
  odds = lambda p: math.log(p / (1 - p))  # noqa: E731
  labels = [label(0, (0.9, 0.6)), label(1, (0.2, 0.9)), label(2, (0.1, 0.3))]
  found = [row["Short."] for row in principle_data.scores(labels)]
  raw = [(odds(0.9) + odds(0.6)) / 2, 0.0, (odds(0.1) + odds(0.3)) / 2]
  mean = sum(raw) / 3
  variance = sum((x - mean) ** 2 for x in raw) / 3
  assert found == pytest.approx([x / variance for x in raw])
  # "Polite." never decides: no division by a variance of 0.
  assert [row["Polite."] for row in principle_data.scores(labels)] == [0.0] * 3
  assert principle_data.scores([label(0, (1.0, 1.0))])[0]["Short."] > 10


def test_equal_scores_keep_their_unit():
  labels = [label(i, (0.7, 0.8)) for i in range(9)]
  (score,) = {row["Short."] for row in principle_data.scores(labels)}
  odds = [math.log(p / (1 - p)) for p in (0.7, 0.8)]
  assert score == pytest.approx(sum(odds) / 2)


def test_a_negated_principle_prefers_the_other_response():
  found, counts = rows([label(i, (0.9, 0.8)) for i in range(200)])
  by_text = {"Short.": [], "Long.": []}
  for row in found:
    assert row.context == ""
    assert row.first.startswith("Response\none\n\nText\ndoc\n\nPrinciples\n- ")
    for text, own in by_text.items():
      if f"- {text}\n" in row.first:
        own.append(row.p_first)
    assert row.first.replace("one", "two", 1) == row.second
    assert "Never." not in row.first
  assert set(by_text["Short."]) == {1.0} and set(by_text["Long."]) == {0.0}
  share = len(by_text["Long."]) / len(found)
  assert share == pytest.approx(0.5, abs=0.06)
  # Rows with "Polite." alone are ties.
  assert counts["ties"] + len(found) == 800 and counts["ties"] > 30
  assert counts["flipped"] == 0


def test_the_clearest_principle_decides():
  """In units of its variance, "Short." is clearer, although less certain."""
  labels = [
    label(
      i,
      (0.6, 0.6) if i % 2 else (0.4, 0.4),
      (0.99, 0.99) if i // 2 % 2 else (0.01, 0.01),
    )
    for i in range(20)
  ]
  for scores in principle_data.scores(labels):
    assert abs(scores["Short."]) > abs(scores["Polite."]) > 0
  config = dataclasses.replace(
    CONFIG, stop_probability=0.01, negate_probability=0.0
  )
  found = [
    row for row in rows(labels, config)[0] if row.first.count("\n- ") == 2
  ]
  assert len(found) > 60
  for row in found:
    assert row.p_first == float(int(row.id.split("/")[0]) % 2)


@pytest.mark.parametrize("stop, most", [(1.0, 1), (0.01, 2)])
def test_the_number_is_geometric(stop, most):
  config = dataclasses.replace(CONFIG, stop_probability=stop)
  found, _ = rows([label(i, (0.9, 0.8), (0.3, 0.4)) for i in range(40)], config)
  sizes = [row.first.count("\n- ") for row in found]
  assert max(sizes) == most and sum(sizes) / len(sizes) > 0.9 * most
  one = dataclasses.replace(config, max_principles=1)
  found, _ = rows([label(0, (0.9, 0.8))], one)
  assert all(row.first.count("\n- ") == 1 for row in found)


def test_noise_passes_and_seeds():
  labels = [label(i, (0.9, 0.8), (0.9, 0.7)) for i in range(100)]
  noisy = dataclasses.replace(
    CONFIG, flip_probability=0.25, negate_probability=0.0
  )
  found, counts = rows(labels, noisy)
  wrong = sum(row.p_first == 0.0 for row in found)
  assert wrong == counts["flipped"] and wrong / 400 == pytest.approx(
    0.25, abs=0.07
  )
  assert rows(labels, noisy)[0] == found
  assert rows(labels, dataclasses.replace(noisy, seed=1))[0] != found
  once, _ = rows(labels, dataclasses.replace(noisy, passes=1))
  assert once == [row for row in found if row.id.endswith("/0")]


def test_labels_of_other_principles_are_told():
  known = principles.Principles(principles=(SHORT,))
  with pytest.raises(ValueError, match="is by the principles .*Polite"):
    rows([label(0, (0.9, 0.8))], known=known)
  bare = dataclasses.replace(
    label(0, (0.9, 0.8)), rationales=(), p_rationales=()
  )
  with pytest.raises(ValueError, match="label the pairs with PrincipleJudge"):
    rows([bare])
  same = dataclasses.replace(bare, second="one")
  assert rows([same])[0] == []
  with pytest.raises(ValueError, match="stop_probability is 0"):
    dataclasses.replace(CONFIG, stop_probability=0.0)
