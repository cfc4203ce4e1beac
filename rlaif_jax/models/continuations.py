# SPDX-License-Identifier: Apache-2.0
"""A prompt and all of its responses as one row of a causal model.

    tokens   [ _ _ c c c | r r e _ | r e _ _ ]
    document [ 0 0 1 1 1 | 1 1 1 0 | 1 1 0 0 ]
    branch   [ 0 0 0 0 0 | 1 1 1 1 | 2 2 2 2 ]

Owns which column is what; who sees whom follows (`attention.branch_mask`).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlaif_jax.core import batches


class Row(NamedTuple):
  """Rows of texts that branch, each [B, L] int32."""

  tokens: jax.Array
  document: jax.Array
  branch: jax.Array


def row_of(batch: batches.GroupBatch) -> Row:
  """[B, P] and [B, G, R] -> [B, P + G R]."""
  rows, group, length = batch.response.shape

  def join(prompt, response):
    return jnp.concatenate([prompt, response.reshape(rows, -1)], axis=1)

  number = jnp.repeat(jnp.arange(1, group + 1), length)
  number = jnp.broadcast_to(number, (rows, group * length))
  return Row(
    tokens=join(batch.prompt, batch.response),
    document=join(batch.prompt_valid, batch.response_valid).astype(jnp.int32),
    branch=join(jnp.zeros_like(batch.prompt), number),
  )


def columns_before(batch: batches.GroupBatch) -> jax.Array:
  """[B, G R]: the column before each response column.

  That of a response's first is the prompt's last.
  """
  return _around(batch, ends=False)


def columns_around(batch: batches.GroupBatch) -> jax.Array:
  """[B, G (R + 1)]: the columns before each response column, and the last."""
  return _around(batch, ends=True)


def last_columns(batch: batches.GroupBatch) -> jax.Array:
  """[B, G]: each response's last real column, or the prompt's without any."""
  length = batch.response.shape[2]
  count = jnp.arange(1, length + 1)
  last = jnp.max(jnp.where(batch.response_valid, count, 0), axis=2)
  return jnp.take_along_axis(_table(batch), last[:, :, None], axis=2)[..., 0]


def _table(batch: batches.GroupBatch) -> jax.Array:
  """[B, G, R + 1]: the prompt's last column, and the response's own."""
  rows, group, length = batch.response.shape
  prompt = batch.prompt.shape[1]
  own = prompt + jnp.arange(group * length).reshape(group, length)
  table = jnp.pad(own, ((0, 0), (1, 0)), constant_values=prompt - 1)
  return jnp.broadcast_to(table, (rows, group, length + 1))


def _around(batch: batches.GroupBatch, *, ends: bool) -> jax.Array:
  table = _table(batch)
  table = table if ends else table[:, :, :-1]
  return table.reshape(table.shape[0], -1)
