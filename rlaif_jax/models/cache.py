# SPDX-License-Identifier: Apache-2.0
"""A decoder's keys and values as a plain value, and its rows and columns."""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp


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
