# SPDX-License-Identifier: Apache-2.0
"""The key-value cache of a decoder, and functions of its rows and columns."""

from __future__ import annotations

from typing import Sequence

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rlaif_jax.models import layouts


@flax.struct.dataclass
class LayerCache:
  """Keys and values of one layer.

  The heads come before the columns, so that a token's attention of one head is
  a product with a contiguous matrix. The functions of this module also apply
  to a subclass with more arrays [B, heads, S, channels].
  """

  keys: Float[Array, "B K S C"]
  values: Float[Array, "B K S C"]


@flax.struct.dataclass
class Cache:
  """Keys and values of the columns that a model has read, in any order.

  Attributes:
    layers: one LayerCache per layer.
    positions: positions of the columns' tokens, -1 if unused.
    next_column: the column to write next.
    first_column: the column to write after the last one.
  """

  layers: tuple[LayerCache, ...]
  positions: Int[Array, "B S"]
  next_column: Int[Array, ""]
  first_column: Int[Array, ""]

  def next_positions(
    self, valid: Bool[Array, "B L"], prefix: Cache | None = None
  ) -> tuple[Int[Array, "B L"], Int[Array, "B S"]]:
    """Returns positions of the next columns, and `positions` with them.

    They continue those of the row, and of the prefix of all rows.
    """
    seen = jnp.max(self.positions, axis=1, keepdims=True)
    if prefix is not None:
      seen = jnp.maximum(seen, jnp.max(prefix.positions))
    positions = layouts.positions_from_valid(valid, seen + 1)
    return positions, jax.lax.dynamic_update_slice(
      self.positions, jnp.where(valid, positions, -1), (0, self.next_column)
    )

  def written(
    self,
    layers: Sequence[LayerCache],
    positions: Int[Array, "B S"],
    length: int,
  ) -> Cache:
    """Returns the cache after `length` columns were written."""
    column = self.next_column + length
    return self.replace(
      layers=tuple(layers),
      positions=positions,
      next_column=jnp.where(
        column < positions.shape[1], column, self.first_column
      ),
    )


def init_cache(prefix: Cache, rows: int, num_new_tokens: int) -> Cache:
  """Returns an empty cache of rows that continue a prefix of one row.

  The columns of the prefix are not copied.
  """

  def empty(array):
    shape = (rows, array.shape[1], num_new_tokens, array.shape[3])
    return jnp.zeros(shape, array.dtype)

  return Cache(
    layers=jax.tree.map(empty, prefix.layers),
    positions=jnp.full((rows, num_new_tokens), -1, jnp.int32),
    next_column=jnp.zeros((), jnp.int32),
    first_column=jnp.zeros((), jnp.int32),
  )


def grow_cache(cache: Cache, num_new_tokens: int) -> Cache:
  """Returns the cache with empty columns at its end, the next to write."""
  columns = cache.positions.shape[1]
  pad = ((0, 0), (0, 0), (0, num_new_tokens), (0, 0))
  return Cache(
    layers=jax.tree.map(lambda array: jnp.pad(array, pad), cache.layers),
    positions=jnp.pad(cache.positions, pad[1:3], constant_values=-1),
    next_column=jnp.asarray(columns, jnp.int32),
    first_column=jnp.asarray(columns, jnp.int32),
  )


def unpack(
  positions: Int[Array, "B L"],
  layers: Sequence[LayerCache],
  columns: Int[Array, "N W"],
) -> Cache:
  """Returns the cache of prompts that were read in packed rows.

  Args:
    positions: positions of the columns.
    layers: keys and values of the columns.
    columns: columns of each prompt's tokens in order, counted through all rows;
      -1 if unused.
  """
  index = jnp.maximum(columns, 0)

  def take(array):
    rows, heads, length, channels = array.shape
    flat = array.swapaxes(1, 2).reshape(rows * length, heads, channels)
    return flat[index].swapaxes(1, 2)

  width = jnp.asarray(columns.shape[1], jnp.int32)
  return Cache(
    layers=jax.tree.map(take, tuple(layers)),
    positions=jnp.where(columns >= 0, positions.reshape(-1)[index], -1),
    next_column=width,
    first_column=width,
  )


def insert_row(
  cache: Cache, row: Int[Array, ""], other: Cache, other_row: Int[Array, ""]
) -> Cache:
  """Returns `cache` with one row replaced by a row of another cache.

  The other cache has at most as many columns. The next column stays the same.
  """

  def put(array, rows):
    new = jax.lax.dynamic_slice_in_dim(rows, other_row, 1)
    start = (row,) + (0,) * (array.ndim - 1)
    return jax.lax.dynamic_update_slice(array, new, start)

  missing = cache.positions.shape[1] - other.positions.shape[1]
  positions = jnp.pad(
    other.positions, ((0, 0), (0, missing)), constant_values=-1
  )
  return cache.replace(
    layers=jax.tree.map(put, cache.layers, other.layers),
    positions=put(cache.positions, positions),
  )
