# SPDX-License-Identifier: Apache-2.0
"""A decoder's keys and values as a plain value, and its rows and columns."""

from __future__ import annotations

from typing import Any, Iterable

import flax.struct
import jax
import jax.numpy as jnp

from rlaif_jax.models import attention


@flax.struct.dataclass
class Cache:
  """Keys and values of the columns that a model has read.

  keys, values: one [B, K, S, C] array per layer, so that a token's reading of
  a row is K products with matrices that lie in one piece; last_keys: one
  [B, M, C] per layer, the unrotated keys of the last real token in the M heads
  that use the previous token's key; places: [B, S] int32, the position of each
  column's token, -1 where there is none, so that columns may stand in any
  order; column: the next column to write, and first: the one that comes after
  the last, scalars int32.
  """

  keys: tuple[jax.Array, ...]
  values: tuple[jax.Array, ...]
  last_keys: tuple[jax.Array, ...]
  places: jax.Array
  column: jax.Array
  first: jax.Array

  def layers(self) -> list[tuple[jax.Array, jax.Array, jax.Array]]:
    """Keys, values and last keys of each layer."""
    return list(zip(self.keys, self.values, self.last_keys, strict=True))

  def placed(
    self, valid: jax.Array, beginning: Cache | None = None
  ) -> tuple[jax.Array, jax.Array]:
    """Positions [B, L] of the next columns, and `places` with them.

    They go on after those that are there, and after the beginning's.
    """
    seen = jnp.max(self.places, axis=1, keepdims=True)
    if beginning is not None:
      seen = jnp.maximum(seen, jnp.max(beginning.places))
    positions = attention.positions_from_valid(valid, seen + 1)
    new = jnp.where(valid, positions, -1)
    start = (0, self.column)
    return positions, jax.lax.dynamic_update_slice(self.places, new, start)

  def written(
    self, layers: Iterable[Any], places: jax.Array, length: int
  ) -> Cache:
    """With other `layers()` and places, after `length` columns more."""
    keys, values, last_keys = zip(*layers, strict=True)
    column = self.column + length
    column = jnp.where(column < places.shape[1], column, self.first)
    return Cache(keys, values, last_keys, places, column, self.first)


def begin(beginning: Cache, rows: int, room: int) -> Cache:
  """An empty cache of rows that go on after a beginning of one row.

  It has `room` columns; those of the beginning stay where they are.
  """

  def empty(array):
    shape = (rows, array.shape[1], room, array.shape[3])
    return jnp.zeros(shape, array.dtype)

  return Cache(
    keys=tuple(map(empty, beginning.keys)),
    values=tuple(map(empty, beginning.values)),
    last_keys=tuple(
      jnp.broadcast_to(key, (rows, *key.shape[1:]))
      for key in beginning.last_keys
    ),
    places=jnp.full((rows, room), -1, jnp.int32),
    column=jnp.zeros((), jnp.int32),
    first=jnp.zeros((), jnp.int32),
  )


def widen(cache: Cache, room: int) -> Cache:
  """The cache with `room` empty columns more, which are the next to write."""
  columns = cache.places.shape[1]
  pad = ((0, 0), (0, 0), (0, room), (0, 0))
  return cache.replace(
    keys=tuple(jnp.pad(key, pad) for key in cache.keys),
    values=tuple(jnp.pad(value, pad) for value in cache.values),
    places=jnp.pad(cache.places, pad[1:3], constant_values=-1),
    column=jnp.asarray(columns, jnp.int32),
    first=jnp.asarray(columns, jnp.int32),
  )


def unpack(
  positions: jax.Array, layers: Iterable[Any], columns: jax.Array
) -> Cache:
  """The cache of texts that were read side by side in rows.

  Args:
    positions: [B, L].
    layers: keys and values [B, K, L, C] and unrotated keys [B, L, M, C].
    columns: [N, W] where each text stands, counted through all rows, in
      order; -1 is none.
  """
  here = jnp.maximum(columns, 0)

  def flat(array):
    rows, length, *rest = array.shape
    return array.reshape(rows * length, *rest)

  def take(array):
    return flat(array.swapaxes(1, 2))[here].swapaxes(1, 2)

  keys, values, own = zip(*layers, strict=True)
  width = jnp.asarray(columns.shape[1], jnp.int32)
  return Cache(
    keys=tuple(map(take, keys)),
    values=tuple(map(take, values)),
    last_keys=tuple(flat(key)[here.max(axis=1)] for key in own),
    places=jnp.where(columns >= 0, flat(positions)[here], -1),
    column=width,
    first=width,
  )


def put_row(
  cache: Cache, row: jax.Array, other: Cache, number: jax.Array
) -> Cache:
  """Row `number` of another cache, which may be narrower, as row `row`.

  Where columns are written next stays as it was.
  """

  def put(array, rows):
    new = jax.lax.dynamic_slice_in_dim(rows, number, 1)
    start = (row,) + (0,) * (array.ndim - 1)
    return jax.lax.dynamic_update_slice(array, new, start)

  arrays = (cache.keys, cache.values, cache.last_keys)
  others = (other.keys, other.values, other.last_keys)
  keys, values, last_keys = jax.tree.map(put, arrays, others)
  missing = cache.places.shape[1] - other.places.shape[1]
  places = jnp.pad(other.places, ((0, 0), (0, missing)), constant_values=-1)
  return cache.replace(
    keys=keys,
    values=values,
    last_keys=last_keys,
    places=put(cache.places, places),
  )
