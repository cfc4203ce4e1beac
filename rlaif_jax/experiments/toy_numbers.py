# SPDX-License-Identifier: Apache-2.0
"""Accuracy, calibration and agreement of the members of a proxy."""

from __future__ import annotations

import numpy as np

from rlaif_jax.evaluation import calibration
from rlaif_jax.ops import pair_accuracy

# As many as UP-RLHF has (arXiv:2401.00243).
_BINS = 15


def accuracy(margins: np.ndarray, labels: np.ndarray) -> float:
  """Returns the pairwise accuracy of margins [B] against labels [B]."""
  return float(np.mean(pair_accuracy.correct(margins, labels)))


def reliability(margins: np.ndarray, gaps: np.ndarray) -> dict[str, float]:
  """Accuracy and calibration on clean pairs.

  The proxy's P(first is better) is the sigmoid of its mean margin, as in its
  training.

  Args:
    margins: [k, B], each member's reward of the first minus the second.
    gaps: [B], the same of gold; 0 is a tie.

  Returns:
    accuracy: of the mean.
    member_accuracy: mean over members.
    ece: expected calibration error of the sigmoids.
    ece_if_right: what it would be by chance alone, if they were right.
    ece_rescaled: with margins in the unit in which the largest has the
      confidence 0.99, as UP-RLHF reports it (arXiv:2401.00243).
  """
  labels = (gaps > 0).astype(float)
  mean = margins.mean(axis=0).astype(float)
  truth = np.where(gaps == 0, 0.5, labels)
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
  """Mean deviation of members [k, B], each in its own unit."""
  centred = rewards - rewards.mean(axis=1, keepdims=True)
  scale = np.maximum(rewards.std(axis=1, keepdims=True), 1e-6)
  return float((centred / scale).std(axis=0).mean())


def correlation(rewards: np.ndarray) -> float:
  """Mean over all two of the members [k, B] of their correlation."""
  matrix = np.corrcoef(rewards)
  return float(matrix[np.triu_indices(len(matrix), 1)].mean())
