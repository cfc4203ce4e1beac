# SPDX-License-Identifier: Apache-2.0
"""Agreement of predictions with human labels, and position bias of a labeler.

Labeler alignment, reward-model accuracy and judge agreement are all `accuracy`.
Unanswered pairs are counted and not scored.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Iterable, Sequence

import numpy as np

from rlaif_jax.core import records
from rlaif_jax.evaluation import calibration
from rlaif_jax.evaluation import position
from rlaif_jax.ops import pair_accuracy
from rlaif_jax.ops import statistics


@dataclasses.dataclass(frozen=True, kw_only=True)
class Alignment:
  """Alignment of a labeler with humans.

  Attributes:
    accuracy: fraction of pairs on which both agree; ties count half.
    ties: labels of 0.5.
    unanswered: human labels without a label of the labeler.
    entropy: mean of the soft labels, in nats.
    calibration_error: expected calibration error in ten bins.
    longer_wins: accuracy of preferring the longer text, a baseline.
    copied_wins: accuracy of preferring the text with more words of the
      context, a baseline.
  """

  accuracy: statistics.Estimate
  ties: int
  unanswered: int
  entropy: float
  calibration_error: float
  longer_wins: statistics.Estimate
  copied_wins: statistics.Estimate


@dataclasses.dataclass(frozen=True, kw_only=True)
class PositionBias:
  """Position bias of a labeler (paper, appendix B).

  Attributes:
    same_position: fraction of pairs where one position wins in both orders.
    consistent: fraction of pairs where one response wins in both orders.
    first_side: of those, the fraction that picks the first position.
    p_value: of the exact two-sided binomial test of `first_side` against 1/2;
      1.0 if no pair was decided by position.
  """

  same_position: statistics.Estimate
  consistent: statistics.Estimate
  first_side: statistics.Estimate
  p_value: float


def to_row(record: Alignment | PositionBias) -> records.Row:
  """Returns a JSON-serialisable dict of a dataclass of this module."""
  return dataclasses.asdict(record)


def accuracy(
  p_first: Sequence[float], truth: Sequence[float]
) -> statistics.Estimate:
  """Returns the fraction of pairs on which both agree (paper 2.3)."""
  margin = np.asarray(p_first, float) - 0.5
  values = pair_accuracy.correct(margin, np.asarray(truth, float))
  return statistics.wilson(float(values.sum()), len(values))


def alignment(
  labels: Sequence[records.Preference],
  humans: Sequence[records.Preference],
) -> Alignment:
  """Returns the alignment of labels with human labels of the same pairs.

  Pairs are matched by id; a human label without a label counts as unanswered.
  Human labels of 0.5 are left out.

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
    entropy=float(calibration.entropy(p).mean()),
    calibration_error=calibration.expected_error(p, truth),
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
  """Returns the fraction of a text's words that are in the context."""
  source = set(re.findall(r"\w+", context.lower()))
  words = re.findall(r"\w+", text.lower())
  return sum(w in source for w in words) / len(words) if words else 0.0


def position_bias(labels: Iterable[records.Preference]) -> PositionBias:
  """Returns the position bias of labels made in both orders.

  Labels without `p_orders` of both orders are left out.
  """
  both = [label.p_orders for label in labels if len(label.p_orders) == 2]
  found = position.order_statistics(np.asarray(both, float).reshape(-1, 2))
  return PositionBias(
    same_position=found.flipped,
    consistent=found.consistent,
    first_side=found.first_side,
    p_value=found.test.p_value,
  )


def reward_accuracy(
  rewards: Sequence[np.ndarray], labels: Sequence[records.Preference]
) -> dict[str, float]:
  """Returns the pairwise accuracy of rewards against labels; ties count half.

  Args:
    rewards: rewards [n] of the first and of the second responses.
    labels: n labelled pairs.

  Returns:
    "accuracy", and its numerator "correct" and denominator "n".
  """
  margin = np.asarray(rewards[0]) - np.asarray(rewards[1])
  truth = np.asarray([label.p_first for label in labels])
  correct = pair_accuracy.correct(margin, truth)
  return {
    "accuracy": float(np.mean(correct)),
    "correct": float(np.sum(correct)),
    "n": len(labels),
  }
