# SPDX-License-Identifier: Apache-2.0
"""Scores all pairs of a set in batches, and writes test_rewards.jsonl."""

from __future__ import annotations

import os
from typing import Callable, Sequence

from jaxtyping import Array, Float
import numpy as np

from rlaif_jax.core import batches
from rlaif_jax.core import jsonl
from rlaif_jax.core import protocols
from rlaif_jax.core import records
from rlaif_jax.data import converters
from rlaif_jax.engine import processes


def predict_pairs(
  score_pairs: Callable[
    [protocols.Params, batches.PairBatch],
    tuple[Float[Array, "*rows B"], Float[Array, "*rows B"]],
  ],
  params: protocols.Params,
  pairs: batches.PairBatch,
  batch_size: int,
) -> tuple[Float[np.ndarray, "*rows n"], Float[np.ndarray, "*rows n"]]:
  """Returns the scores of both responses of n pairs: two arrays [..., n].

  Args:
    score_pairs: (params, batch of B pairs) -> two arrays [..., B].
    params: parameters of the model.
    pairs: n pairs as host arrays.
    batch_size: pairs per device call.
  """
  first, second = [], []
  for rows, real in converters.chunks(pairs.label.shape[0], batch_size):
    scores = score_pairs(params, converters.take(pairs, rows))
    a, b = processes.to_host(scores)
    first.append(a[..., :real])
    second.append(b[..., :real])
  return np.concatenate(first, axis=-1), np.concatenate(second, axis=-1)


def write_test_rewards(
  directory: str | os.PathLike,
  labels: Sequence[records.Preference],
  rewards: Sequence[Float[np.ndarray, " n"]],
  **extras: Float[np.ndarray, " n"],
) -> None:
  """Writes test_rewards.jsonl: the rewards of both responses of each pair.

  Args:
    directory: output directory.
    labels: n labelled pairs.
    rewards: two arrays [n].
    **extras: further columns [n].
  """
  columns = {"first": rewards[0], "second": rewards[1], **extras}
  rows = [
    {
      "id": label.id,
      "label": label.p_first,
      **{name: float(values[i]) for name, values in columns.items()},
    }
    for i, label in enumerate(labels)
  ]
  jsonl.write_rows(f"{directory}/test_rewards.jsonl", rows)
