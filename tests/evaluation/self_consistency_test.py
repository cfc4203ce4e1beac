# SPDX-License-Identifier: Apache-2.0
"""Votes and means over rationales, by hand."""

from __future__ import annotations

import pytest

from rlaif_jax.core import records
from rlaif_jax.evaluation import self_consistency


def label(number, p=(), p_first=1.0, orders=(0.5, 0.5)):
  return records.Preference(
    id=str(number),
    context="c",
    first="a",
    second="b",
    p_first=p_first,
    labeler="l",
    p_orders=orders if p else (),
    rationales=("r",) * len(p),
    p_rationales=p,
  )


def test_by_hand():
  """Three rationales per order; the first response is better."""
  labels = [
    # Right after one rationale of each order, and wrong after more.
    label(0, (0.9, 0.1, 0.2, 0.2, 0.1, 0.6)),
    # Right at each number of rationales.
    label(1, (0.6, 0.6, 0.6, 0.9, 0.9, 0.9)),
    # The votes are right, since two improbable errors outweigh three votes.
    label(2, (0.55, 0.6, 0.6, 0.55, 0.01, 0.01)),
  ]
  humans = [label(i) for i in range(3)] + [label(9)]
  rows = self_consistency.curve(labels, humans)
  assert [row["rationales"] for row in rows] == [1, 2, 3]
  votes = [row["votes"]["value"] for row in rows]
  means = [row["mean"]["value"] for row in rows]
  # k = 1: votes tie, 2, 2; means .55, .75, .55.
  assert votes[0] == pytest.approx((0.5 + 1 + 1) / 3)
  assert means[0] == 1.0
  # k = 2: pair 0 has votes 1 of 4 and mean .325; pair 2 3 of 4 and .4275.
  assert votes[1] == pytest.approx(2 / 3) and means[1] == pytest.approx(1 / 3)
  # k = 3: pair 0 has votes 2 of 6 and mean .35; pair 2 4 of 6 and .387.
  assert votes[2] == pytest.approx(2 / 3) and means[2] == pytest.approx(1 / 3)
  assert rows[0]["votes"]["n"] == 3


def test_judgments_of_one_half_are_no_votes():
  (row,) = self_consistency.curve([label(0, (0.5, 0.5))], [label(0)])
  assert row["votes"]["value"] == 0.5


def test_nothing_without_rationales():
  assert self_consistency.curve([label(0)], [label(0)]) == []
  one_order = label(0, (0.9, 0.9), orders=(0.9,))
  assert self_consistency.curve([one_order], [label(0)]) == []
  assert self_consistency.curve([label(0, (0.9, 0.9))], []) == []
  tie = label(0, p_first=0.5)
  assert self_consistency.curve([label(0, (0.9, 0.9))], [tie]) == []
