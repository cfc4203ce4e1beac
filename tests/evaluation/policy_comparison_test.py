# SPDX-License-Identifier: Apache-2.0
"""Each two policies: their pairs, win rates by a judge and by people."""

from __future__ import annotations

import dataclasses

import pytest

from rlaif_jax.core import records
from rlaif_jax.evaluation import policy_comparison
from rlaif_jax.evaluation import rankings
from tests import testing

TEXTS = {
  "A": {"1": "a1", "2": "same", "3": "a3"},
  "B": {"1": "b1", "2": "same", "4": "b4"},
  "C": {"1": "c1", "2": "c2"},
}


def test_each_two_policies_meet_on_common_contexts():
  pairs = policy_comparison.pair_responses(testing.sampled(TEXTS))
  assert list(pairs) == [("A", "B"), ("A", "C"), ("B", "C")]
  rows = pairs["A", "B"]
  assert [(r.context, r.first, r.second) for r in rows] == [
    ("context 1", "a1", "b1"),
    ("context 2", "same", "same"),
  ]
  ids = {row.id for rows in pairs.values() for row in rows}
  assert len(ids) == 6
  few = policy_comparison.pair_responses(testing.sampled(TEXTS), limit=1)
  assert few["A", "B"] == rows[:1]
  with pytest.raises(ValueError, match="no context in common"):
    policy_comparison.pair_responses(
      testing.sampled({"A": {"1": "x"}, "B": {"2": "y"}})
    )


def test_equal_texts_are_a_tie_and_missing_labels_are_counted():
  pairs = policy_comparison.pair_responses(testing.sampled(TEXTS))

  def labels_of(rows):
    for row in rows:
      label = records.Preference(
        **records.to_row(row), p_first=0.5, labeler="judge"
      )
      if row.first == row.second:
        yield label  # without p_orders
      elif row.first != "b1":
        yield dataclasses.replace(label, p_first=0.9, p_orders=(0.9, 0.9))

  found = policy_comparison.compare_by_judge(pairs, labels_of)
  rates = {(c["a"], c["b"]): c for c in found["comparisons"]}
  assert (rates["A", "B"]["wins"], rates["A", "B"]["ties"]) == (1, 1)
  assert rates["A", "B"]["win_rate"]["value"] == 0.75
  assert rates["A", "C"]["wins"] == 2
  assert (rates["B", "C"]["unanswered"], rates["B", "C"]["wins"]) == (1, 1)


def test_people_agree():
  rows = [
    rankings.Ranking(id=f"i{i}", rater=rater, order=("A", "B"))
    for i in range(3)
    for rater in ("ann", "bob")
  ]
  found = policy_comparison.compare_by_rankings(rows)
  assert found["raters"] == ["ann", "bob"]
  assert found["comparisons"][0]["win_rate"]["value"] == 1.0
