# SPDX-License-Identifier: Apache-2.0
"""Accuracy, calibration and agreement of the members of a proxy."""

from __future__ import annotations

import numpy as np

from rlaif_jax.evaluation import calibration
from rlaif_jax.ops import pair_accuracy

# As in UP-RLHF (arXiv:2401.00243).
_BINS = 15


def accuracy(margins: np.ndarray, labels: np.ndarray) -> float:
  """Returns the pairwise accuracy of margins [B] against labels [B]."""
  return float(np.mean(pair_accuracy.correct(margins, labels)))


def reliability(
  margins: np.ndarray, gold_margins: np.ndarray
) -> dict[str, float]:
  """Returns accuracy and calibration on pairs labelled by gold.

  The proxy's P(first is better) is the sigmoid of its mean margin, as in its
  training.

  Args:
    margins: [k, B], each member's reward of the first minus the second.
    gold_margins: [B], gold of the first minus the second; 0 is a tie.

  Returns:
    accuracy: of the mean.
    member_accuracy: mean over members.
    ece: expected calibration error of the sigmoids.
    ece_if_right: mean error of calibrated sigmoids on as many pairs.
    ece_rescaled: error of margins that are scaled so that the largest has the
      confidence 0.99, as in UP-RLHF (arXiv:2401.00243).
  """
  labels = (gold_margins > 0).astype(float)
  mean = margins.mean(axis=0).astype(float)
  truth = np.where(gold_margins == 0, 0.5, labels)
  found = _calibrated(mean, truth)
  largest = max(float(np.abs(mean).max()), 1e-9)
  rescaled = _calibrated(mean * np.log(99.0) / largest, truth)
  return {
    "accuracy": accuracy(mean, labels),
    "member_accuracy": float(np.mean([accuracy(m, labels) for m in margins])),
    "ece": found.error.value,
    "ece_if_right": found.error_if_calibrated.value,
    "ece_rescaled": rescaled.error.value,
  }


def _calibrated(margins, truth) -> calibration.Calibration:
  chances = 1.0 / (1.0 + np.exp(-np.clip(margins, -700, 700)))
  return calibration.calibration(chances, truth, bins=_BINS)


def disagreement(rewards: np.ndarray) -> float:
  """Returns the mean standard deviation of standardised members [k, B]."""
  centred = rewards - rewards.mean(axis=1, keepdims=True)
  scale = np.maximum(rewards.std(axis=1, keepdims=True), 1e-6)
  return float((centred / scale).std(axis=0).mean())


def correlation(rewards: np.ndarray) -> float:
  """Returns the mean correlation over pairs of members [k, B]."""
  matrix = np.corrcoef(rewards)
  return float(matrix[np.triu_indices(len(matrix), 1)].mean())
