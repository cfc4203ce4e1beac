# SPDX-License-Identifier: Apache-2.0
"""Agreement of predictions with human labels; position bias of a labeler.

One computation has three names: labeler alignment, reward-model accuracy and
agreement of a judge. What was not answered is counted, never scored.
"""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any, Iterable, Sequence

import numpy as np

from rlaif_jax.core import records
from rlaif_jax.ops import statistics


@dataclasses.dataclass(frozen=True, kw_only=True)
class Alignment:
  """accuracy: share that agree, ties half. entropy: mean of the soft labels,
  in nats. Baselines on the same pairs stand beside it."""

  accuracy: statistics.Estimate
  ties: int
  unanswered: int
  entropy: float
  calibration_error: float
  longer_wins: statistics.Estimate
  copied_wins: statistics.Estimate


@dataclasses.dataclass(frozen=True, kw_only=True)
class PositionBias:
  """same_position: share of pairs where one position wins in both orders
  (paper, appendix B). first_side: of those, the share that picks the first
  position, with the exact two-sided binomial p-value. p_value is 1.0 when
  nothing was picked by position."""

  same_position: statistics.Estimate
  first_side: statistics.Estimate
  p_value: float


def to_row(record: Any) -> dict[str, Any]:
  """A JSON-serialisable dict of any of the records here."""
  return dataclasses.asdict(record)


def hits(p_first: np.ndarray, truth: np.ndarray) -> np.ndarray:
  """1 where both prefer the same text, 0.5 for a tie on either side."""
  tie = (p_first == 0.5) | (truth == 0.5)
  return np.where(tie, 0.5, ((p_first > 0.5) == (truth > 0.5)).astype(float))


def accuracy(
  p_first: Sequence[float], truth: Sequence[float]
) -> statistics.Estimate:
  """Share of pairs on which a prediction and a human agree (paper 2.3)."""
  values = hits(np.asarray(p_first, float), np.asarray(truth, float))
  return statistics.wilson(float(values.sum()), len(values))


def alignment(
  labels: Sequence[records.Preference],
  humans: Sequence[records.Preference],
) -> Alignment:
  """Alignment of labels with human labels of the same pairs.

  Pairs are matched by id and text; a human pair without a label is counted as
  unanswered. Human labels of 0.5 are left out.

  Raises:
    ValueError: no pair is in both.
  """
  by_id = {label.id: label for label in labels}
  both = [
    (by_id[human.id], human)
    for human in humans
    if human.id in by_id and human.p_first != 0.5
  ]
  if not both:
    raise ValueError(
      f"none of {len(labels)} labels and {len(humans)} human labels have the "
      "same id; were they made from the same pairs file?"
    )
  p = np.asarray([label.p_first for label, _ in both])
  truth = np.asarray([human.p_first for _, human in both])
  return Alignment(
    accuracy=accuracy(p, truth),
    ties=int((p == 0.5).sum()),
    unanswered=sum(human.id not in by_id for human in humans),
    entropy=float(np.mean([_entropy(value) for value in p])),
    calibration_error=calibration_error(p, truth),
    longer_wins=accuracy(
      [_prefer(len(h.first), len(h.second)) for _, h in both], truth
    ),
    copied_wins=accuracy(
      [
        _prefer(copied(h.context, h.first), copied(h.context, h.second))
        for _, h in both
      ],
      truth,
    ),
  )


def _prefer(a: float, b: float) -> float:
  return 0.5 if a == b else float(a > b)


def copied(context: str, text: str) -> float:
  """Share of a text's words that stand in the context."""
  source = set(re.findall(r"\w+", context.lower()))
  words = re.findall(r"\w+", text.lower())
  return sum(w in source for w in words) / len(words) if words else 0.0


def _entropy(p: float) -> float:
  return -sum(q * math.log(q) for q in (p, 1 - p) if q > 0)


def calibration_error(
  p_first: np.ndarray, truth: np.ndarray, bins: int = 10
) -> float:
  """Expected calibration error of P(the preferred one) in equal bins."""
  confidence = np.maximum(p_first, 1 - p_first)
  correct = hits(p_first, truth)
  place = np.minimum(((confidence - 0.5) * 2 * bins).astype(int), bins - 1)
  total = 0.0
  for b in range(bins):
    inside = place == b
    if inside.any():
      total += abs(float((correct - confidence)[inside].sum()))
  return total / max(len(p_first), 1)


def position_bias(labels: Iterable[records.Preference]) -> PositionBias:
  """How often the position decides, over labels with both orders kept.

  `p_orders` holds P(first text) when it was shown first and when it was shown
  second; the position wins when they are on different sides of 0.5.
  """
  both = (label.p_orders for label in labels if len(label.p_orders) == 2)
  flat = np.fromiter((p for orders in both for p in orders), float)
  shown_first, shown_second = flat[0::2], flat[1::2]
  # The first position is picked in order 1 when P(first) > 0.5, and in order
  # 2 when P(first), which then stands second, is < 0.5.
  first_picks = (shown_first > 0.5) & (shown_second < 0.5)
  second_picks = (shown_first < 0.5) & (shown_second > 0.5)
  first, second = int(first_picks.sum()), int(second_picks.sum())
  return PositionBias(
    same_position=statistics.wilson(first + second, len(shown_first)),
    first_side=statistics.wilson(first, first + second),
    p_value=statistics.binomial_test(first, first + second),
  )


def reward_accuracy(
  rewards: Sequence[np.ndarray], labels: Sequence[records.Preference]
) -> dict[str, float]:
  """Returns the pairwise accuracy of rewards against labels; ties count half.

  Args:
    rewards: [n] rewards of the first and of the second responses.
    labels: n labelled pairs.

  Returns:
    "accuracy", and its numerator and denominator "correct" and "n".
  """
  p_first = 0.5 + 0.5 * np.sign(np.asarray(rewards[0]) - np.asarray(rewards[1]))
  correct = hits(p_first, np.asarray([label.p_first for label in labels]))
  return {
    "accuracy": float(np.mean(correct)),
    "correct": float(np.sum(correct)),
    "n": len(labels),
  }
