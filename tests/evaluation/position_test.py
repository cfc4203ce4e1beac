# SPDX-License-Identifier: Apache-2.0
"""Order and length preferences of judges, counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rlaif_jax.evaluation import position

P_ORDERS = np.array(
  [
    [0.9, 0.1],  # first position twice
    [0.8, 0.3],  # first position twice
    [0.2, 0.7],  # second position twice
    [0.9, 0.7],  # the first candidate twice
    [0.4, 0.1],  # the second candidate twice
    [0.5, 0.9],  # no candidate in one order
    [0.9, math.nan],  # no answer in one order
  ]
)


def test_order_statistics_by_hand():
  result = position.order_statistics(P_ORDERS)
  assert result.flipped.value == pytest.approx(3 / 6)
  assert (result.flipped.n, result.undecided, result.unanswered) == (6, 1, 1)
  assert result.consistent.value == pytest.approx(2 / 6)
  assert result.first_side.value == pytest.approx(2 / 3)
  assert result.test.effect == result.first_side
  assert result.test.p_value == pytest.approx(1.0)


def test_the_papers_labeler():
  """18 % flipped, 94 % of them to the first side, of 1,000 pairs."""
  rows = [[0.9, 0.1]] * 169 + [[0.1, 0.9]] * 11 + [[0.8, 0.8]] * 820
  result = position.order_statistics(np.array(rows))
  assert result.flipped.value == pytest.approx(0.18)
  assert result.first_side.value == pytest.approx(0.939, abs=1e-3)
  assert result.test.p_value < 1e-30


def test_swapping_the_candidates_changes_nothing():
  """The second candidate's P, its first showing being the other order."""
  swapped = (1 - P_ORDERS)[:, ::-1]
  assert position.order_statistics(swapped) == position.order_statistics(
    P_ORDERS
  )


def test_swapping_the_orders_changes_the_side():
  result = position.order_statistics(P_ORDERS[:, ::-1])
  assert result.flipped.value == pytest.approx(3 / 6)
  assert result.first_side.value == pytest.approx(1 / 3)


def test_order_statistics_of_nothing():
  for rows in (np.empty((0, 2)), np.full((2, 2), math.nan)):
    result = position.order_statistics(rows)
    assert result.flipped.n == 0 and math.isnan(result.flipped.value)
    assert result.test.p_value == 1.0 and result.unanswered == len(rows)


def test_orders_that_cannot_be():
  with pytest.raises(ValueError, match="one column per order"):
    position.order_statistics(np.ones(4))
  with pytest.raises(ValueError, match="1 values are not in"):
    position.order_statistics(np.array([[0.5, 1.5]]))


P_FIRST = np.array([0.9, 0.8, 0.3, 0.5, 0.9, math.nan, 0.2])
TRUTH = np.array([1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0])
LENGTHS = np.array([9, 9, 2, 9, 5, 9, 3.0]), np.array([4, 4, 8, 4, 5, 4, 1.0])


def test_length_preference_by_hand():
  """Longer wins: judge 1, 1, 1, 1/2, 0; humans 1, 0, 1, 1, 1."""
  result = position.length_preference(P_FIRST, TRUTH, LENGTHS)
  assert result.judge.value == pytest.approx(3.5 / 5)
  assert result.humans.value == pytest.approx(4 / 5)
  assert result.difference.value == pytest.approx(-0.1)
  assert (result.judge.n, result.same_length, result.unanswered) == (5, 1, 1)
  # Three pairs differ; the judge leans more to the longer in one of them.
  assert (result.test.statistic, result.test.effect.n) == (1, 3)


def test_swapping_first_and_second_changes_nothing():
  result = position.length_preference(P_FIRST, TRUTH, LENGTHS)
  swapped = position.length_preference(1 - P_FIRST, 1 - TRUTH, LENGTHS[::-1])
  assert swapped == result


def test_a_judge_of_length_alone_is_found():
  generator = np.random.default_rng(0)
  a, b = generator.integers(10, 60, (2, 300)).astype(float)
  truth = (generator.random(300) < 0.5).astype(float)
  judge = np.where(a > b, 0.9, 0.1)
  result = position.length_preference(judge, truth, (a, b))
  assert result.judge.value == 1.0 and result.difference.low > 0.35
  assert result.test.p_value < 1e-10
  human = position.length_preference(truth, truth, (a, b))
  assert human.difference.value == 0.0 and human.test.p_value == 1.0


def test_length_preference_of_nothing_and_of_what_cannot_be():
  result = position.length_preference([], [], ([], []))
  assert result.judge.n == 0 and math.isnan(result.difference.value)
  assert result.test.p_value == 1.0
  with pytest.raises(ValueError, match="same rows"):
    position.length_preference([0.1, 0.2], [1.0], ([1.0], [2.0]))
  with pytest.raises(ValueError, match="same rows"):
    position.length_preference([0.1], [1.0], ([1.0, 2.0], [2.0, 3.0]))
  for p, truth in ((1.1, 1.0), (0.4, -1.0)):
    with pytest.raises(ValueError, match="1 values are not in"):
      position.length_preference([p], [truth], ([1.0], [2.0]))
