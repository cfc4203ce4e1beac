# SPDX-License-Identifier: Apache-2.0
"""Accuracy of a judge by the number of rationales that it may write."""

from __future__ import annotations

import dataclasses
from typing import Sequence

import numpy as np

from rlaif_jax.core import records
from rlaif_jax.evaluation import agreement


def curve(
  labels: Sequence[records.Preference], humans: Sequence[records.Preference]
) -> list[records.Row]:
  """Returns a row for the first 1, 2, 4, ... of the rationales of an order.

  Labels without rationales, or with rationales of one order only, and human
  labels of 0.5 are left out.

  Returns:
    Rows with "rationales" k, "votes" and "mean". Both are agreement with humans
    in both orders: of the majority of the 2 k judgments (maj@k), each of which
    counts 1 for its more probable option, and of the mean of their
    probabilities. Ties count half. No rows if nothing has rationales.
  """
  truth = {human.id: human.p_first for human in humans if human.p_first != 0.5}
  rows = [
    label
    for label in labels
    if label.id in truth
    and len(label.p_orders) == 2
    and len(label.p_rationales) >= 2
  ]
  if not rows:
    return []
  most = min(len(label.p_rationales) for label in rows) // 2
  expected = [truth[label.id] for label in rows]
  orders = [np.reshape(label.p_rationales, (2, -1))[:, :most] for label in rows]
  p_first = np.asarray(orders)  # [n, 2, most]
  votes = np.where(p_first == 0.5, 0.5, p_first > 0.5)
  sizes = [2**i for i in range(most.bit_length()) if 2**i < most] + [most]

  def accuracy(values: np.ndarray, k: int) -> records.Row:
    means = values[:, :, :k].mean(axis=(1, 2))
    return dataclasses.asdict(agreement.accuracy(means, expected))

  return [
    {
      "rationales": k,
      "votes": accuracy(votes, k),
      "mean": accuracy(p_first, k),
    }
    for k in sizes
  ]
