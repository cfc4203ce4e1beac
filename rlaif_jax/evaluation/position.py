# SPDX-License-Identifier: Apache-2.0
"""Position bias and length bias of a judge."""

from __future__ import annotations

import dataclasses

import numpy as np

from rlaif_jax.ops import hypothesis
from rlaif_jax.ops import statistics


@dataclasses.dataclass(frozen=True, kw_only=True)
class OrderStatistics:
  """Position bias (paper, appendix B).

  Attributes:
    flipped: fraction of pairs whose preferred candidate changes with the
      order: the same position wins twice.
    consistent: fraction of pairs whose preferred candidate is the same in both
      orders. Neither counts a pair with 0.5 in an order.
    first_side: of the flipped pairs, the fraction that prefers the first
      position; the effect of the test.
    test: exact two-sided binomial test of that fraction against one half.
    undecided: pairs with exactly 0.5 in an order; they count in the
      denominator of `flipped`.
    unanswered: pairs without an answer in both orders; not counted elsewhere.
  """

  flipped: statistics.Estimate
  consistent: statistics.Estimate
  first_side: statistics.Estimate
  test: hypothesis.TestResult
  undecided: int
  unanswered: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class LengthPreference:
  """Length bias of a judge relative to humans.

  Attributes:
    judge: fraction of pairs in which the judge prefers the longer text, ties
      half.
    humans: the same for humans, on the same pairs.
    difference: judge minus humans, with a paired bootstrap interval.
    test: exact sign test: of the pairs on which one of the two prefers the
      longer text more, how often it is the judge.
    same_length: pairs of equal length, which are left out.
    unanswered: pairs without an answer of the judge or humans; left out.
  """

  judge: statistics.Estimate
  humans: statistics.Estimate
  difference: statistics.Estimate
  test: hypothesis.TestResult
  same_length: int
  unanswered: int


def order_statistics(p_orders: np.ndarray) -> OrderStatistics:
  """Returns how often the position decides.

  Args:
    p_orders: [n, 2] P(first candidate is better), when it was shown first and
      when it was shown second (`records.Preference.p_orders`); NaN where the
      judge gave no answer.

  Raises:
    ValueError: not [n, 2], or a value outside of [0, 1].
  """
  p_orders = np.asarray(p_orders, np.float64)
  if p_orders.ndim != 2 or p_orders.shape[1] != 2:
    raise ValueError(
      f"p_orders has the shape {p_orders.shape}; it must be [pairs, 2], one "
      "column per order: label with both orders"
    )
  _check_probabilities("p_orders", p_orders)
  shown_first, shown_second = p_orders[~np.isnan(p_orders).any(axis=1)].T
  # The first position wins in both orders if the candidate wins when shown
  # first and loses when shown second.
  first = int(((shown_first > 0.5) & (shown_second < 0.5)).sum())
  second = int(((shown_first < 0.5) & (shown_second > 0.5)).sum())
  same = int(((shown_first - 0.5) * (shown_second - 0.5) > 0).sum())
  n = len(shown_first)
  test = hypothesis.binomial(first, first + second)
  return OrderStatistics(
    flipped=statistics.wilson(first + second, n),
    consistent=statistics.wilson(same, n),
    first_side=test.effect,
    test=test,
    undecided=int(((shown_first == 0.5) | (shown_second == 0.5)).sum()),
    unanswered=len(p_orders) - n,
  )


def length_preference(
  p_first: np.ndarray,
  truth: np.ndarray,
  lengths: tuple[np.ndarray, np.ndarray],
) -> LengthPreference:
  """Returns how much more often a judge prefers long texts than humans do.

  Args:
    p_first: [n] judge's P(first is better); NaN for no answer.
    truth: [n] of humans, 0, 1 or a fraction; NaN for no answer.
    lengths: of the first and the second texts, [n] each.

  Raises:
    ValueError: arrays of different lengths, or a value outside of [0, 1].
  """
  p_first, truth = statistics.paired(p_first, truth)
  length_first, length_second = statistics.paired(*lengths)
  statistics.paired(p_first, length_first)
  _check_probabilities("p_first", p_first)
  _check_probabilities("truth", truth)
  answered = ~np.isnan(p_first) & ~np.isnan(truth)
  differs = length_first != length_second
  kept = answered & differs
  longer_first = (length_first > length_second)[kept]
  judge, humans = (
    np.where(longer_first, choice, 1 - choice)
    for choice in (_choice(p_first[kept]), _choice(truth[kept]))
  )
  n = len(judge)
  return LengthPreference(
    judge=statistics.wilson(float(judge.sum()), n),
    humans=statistics.wilson(float(humans.sum()), n),
    difference=statistics.bootstrap_difference(judge, humans),
    test=hypothesis.sign_test(judge, humans),
    same_length=int((answered & ~differs).sum()),
    unanswered=int((~answered).sum()),
  )


def _choice(p: np.ndarray) -> np.ndarray:
  """Returns 1 for the first, 0 for the second, 0.5 for a tie."""
  return np.where(p == 0.5, 0.5, (p > 0.5).astype(float))


def _check_probabilities(name: str, p: np.ndarray) -> None:
  outside = int(((p < 0) | (p > 1)).sum())
  if outside:
    raise ValueError(
      f"{name}: {outside} values are not in [0, 1]; it holds P(first is better)"
    )
