# SPDX-License-Identifier: Apache-2.0
"""Packs a prompt and all of its responses into one row of a causal model.

tokens           [ _ _ c c c | r r e _ | r e _ _ ]
segment_ids      [ 0 0 1 1 1 | 1 1 1 0 | 1 1 0 0 ]
continuation_ids [ 0 0 0 0 0 | 1 1 1 1 | 2 2 2 2 ]
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Int

from rlaif_jax.core import batches


def pack(
  batch: batches.GroupBatch, columns: Int[Array, "B T"] | None = None
) -> batches.PackedBatch:
  """Packs prompts [B, P] and responses [B, N, R] into rows [B, P + N R].

  Args:
    batch: prompts with their responses.
    columns: those of the result; `columns_before(batch)` if None.
  """
  rows, group_size, length = batch.response.shape

  def join(prompt, response):
    return jnp.concatenate([prompt, response.reshape(rows, -1)], axis=1)

  number = jnp.repeat(jnp.arange(1, group_size + 1), length)
  number = jnp.broadcast_to(number, (rows, group_size * length))
  valid = join(batch.prompt_valid, batch.response_valid)
  return batches.PackedBatch(
    tokens=join(batch.prompt, batch.response),
    segment_ids=valid.astype(jnp.int32),
    continuation_ids=join(jnp.zeros_like(batch.prompt), number),
    columns=columns_before(batch) if columns is None else columns,
  )


def columns_before(batch: batches.GroupBatch) -> Int[Array, "B NR"]:
  """Returns the columns that predict the response columns.

  The prompt's last column predicts the first one of each response.
  """
  table = _table(batch)
  return table[:, :, :-1].reshape(table.shape[0], -1)


def columns_around(batch: batches.GroupBatch) -> Int[Array, "B columns"]:
  """Returns `columns_before` and the last column of each response."""
  table = _table(batch)
  return table.reshape(table.shape[0], -1)


def last_columns(batch: batches.GroupBatch) -> Int[Array, "B N"]:
  """Returns each response's last valid column, or the prompt's if empty."""
  length = batch.response.shape[2]
  count = jnp.arange(1, length + 1)
  last = jnp.max(jnp.where(batch.response_valid, count, 0), axis=2)
  return jnp.take_along_axis(_table(batch), last[:, :, None], axis=2)[..., 0]


def _table(batch: batches.GroupBatch) -> Int[Array, "B N columns"]:
  """Returns the prompt's last column and the columns of each response."""
  rows, group_size, length = batch.response.shape
  prompt = batch.prompt.shape[1]
  own = prompt + jnp.arange(group_size * length).reshape(group_size, length)
  table = jnp.pad(own, ((0, 0), (1, 0)), constant_values=prompt - 1)
  return jnp.broadcast_to(table, (rows, group_size, length + 1))
