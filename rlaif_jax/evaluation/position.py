# SPDX-License-Identifier: Apache-2.0
"""What moves a judge besides the texts: where they stand, how long they are."""

from __future__ import annotations

import dataclasses

import numpy as np

from rlaif_jax.ops import hypothesis
from rlaif_jax.ops import statistics


@dataclasses.dataclass(frozen=True, kw_only=True)
class OrderStatistics:
  """How often the order decides (paper, appendix B).

  Fields:
    flipped: share of pairs whose preferred candidate changes with the order,
      so that the same position wins twice.
    first_side: of the flipped ones, the share that picks the first position
      both times; the test's effect.
    test: exact two-sided binomial test of that share against one half.
    undecided: pairs with exactly 0.5 in an order, which prefer no candidate in
      it; they stay in the denominator of `flipped`.
    unanswered: pairs without an answer in both orders; in nothing else.
  """

  flipped: statistics.Estimate
  first_side: statistics.Estimate
  test: hypothesis.TestResult
  undecided: int
  unanswered: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class LengthPreference:
  """How often the longer text wins, by a judge and by people.

  Fields:
    judge: share of pairs in which the judge prefers the longer, ties half.
    humans: the same by people, on the same pairs.
    difference: judge minus humans, with the interval of a bootstrap in pairs.
    test: exact sign test: of the pairs on which one of both leans more to the
      longer, how often it is the judge.
    same_length: pairs of equal length, which are left out.
    unanswered: pairs that the judge or people did not answer; left out.
  """

  judge: statistics.Estimate
  humans: statistics.Estimate
  difference: statistics.Estimate
  test: hypothesis.TestResult
  same_length: int
  unanswered: int


def order_statistics(p_orders: np.ndarray) -> OrderStatistics:
  """How often the position decides.

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
      f"p_orders is {p_orders.shape}; it must be [pairs, 2], one column an "
      "order: label with both orders"
    )
  _check_probabilities("p_orders", p_orders)
  shown_first, shown_second = p_orders[~np.isnan(p_orders).any(axis=1)].T
  # The first position wins twice where the candidate wins at it and loses
  # away from it.
  first = int(((shown_first > 0.5) & (shown_second < 0.5)).sum())
  second = int(((shown_first < 0.5) & (shown_second > 0.5)).sum())
  n = len(shown_first)
  test = hypothesis.binomial(first, first + second)
  return OrderStatistics(
    flipped=statistics.wilson(first + second, n),
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
  """Whether a judge leans more to long texts than people do.

  Args:
    p_first: [n] judge's P(first is better); NaN for no answer.
    truth: [n] people's, 0, 1 or a share; NaN likewise.
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
  """1 for the first, 0 for the second, 0.5 for a tie."""
  return np.where(p == 0.5, 0.5, (p > 0.5).astype(float))


def _check_probabilities(name: str, p: np.ndarray) -> None:
  outside = int(((p < 0) | (p > 1)).sum())
  if outside:
    raise ValueError(
      f"{name}: {outside} values are not in [0, 1]; it holds P(first is better)"
    )
