# SPDX-License-Identifier: Apache-2.0
"""Empty columns, unpacked prompts, and rows that replace others."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from rlaif_jax.models import cache


def filled(rows, columns, start):
  """A cache of one layer whose numbers are all different."""
  count = rows * 2 * columns * 3
  numbers = start + jnp.arange(count, dtype=jnp.float32)
  keys = numbers.reshape(rows, 2, columns, 3)
  positions = jnp.broadcast_to(jnp.arange(columns), (rows, columns))
  return cache.Cache(
    layers=(cache.LayerCache(keys, -keys),),
    positions=positions + jnp.arange(rows)[:, None],
    next_column=jnp.asarray(columns, jnp.int32),
    first_column=jnp.asarray(columns, jnp.int32),
  )


def test_new_columns_are_empty_and_come_next():
  before = filled(2, 4, 0.0)
  after = cache.grow_cache(before, 3)
  (layer,) = after.layers
  assert layer.keys.shape == layer.values.shape == (2, 2, 7, 3)
  np.testing.assert_array_equal(layer.values[:, :, :4], before.layers[0].values)
  np.testing.assert_array_equal(after.positions[:, :4], before.positions)
  np.testing.assert_array_equal(after.positions[:, 4:], -1)
  assert int(after.next_column) == int(after.first_column) == 4


def test_a_row_replaces_another():
  own, other = cache.grow_cache(filled(3, 4, 0.0), 2), filled(5, 4, 500.0)
  own = own.replace(
    positions=own.positions.at[:, 4:].set(9), next_column=jnp.asarray(5)
  )
  put = jax.jit(cache.insert_row)(own, 1, other, 3)
  for name in ("keys", "values"):
    mine, theirs, before = (
      getattr(each.layers[0], name) for each in (put, other, own)
    )
    np.testing.assert_array_equal(mine[1, :, :4], theirs[3])
    np.testing.assert_array_equal(mine[0], before[0])
    np.testing.assert_array_equal(mine[2], before[2])
  # The columns that the row had written are unused.
  np.testing.assert_array_equal(put.positions[1, :4], other.positions[3])
  np.testing.assert_array_equal(put.positions[1, 4:], -1)
  np.testing.assert_array_equal(put.positions[2], own.positions[2])
  assert int(put.next_column) == 5


def test_unpacked_prompts_have_rows_of_their_own():
  packed = filled(2, 3, 0.0)
  columns = jnp.array([[4, 5], [0, -1], [-1, -1]])
  found = cache.unpack(packed.positions, packed.layers, columns)
  keys = packed.layers[0].keys
  np.testing.assert_array_equal(found.layers[0].keys[0], keys[1, :, 1:])
  np.testing.assert_array_equal(found.layers[0].values[1, :, 0], -keys[0, :, 0])
  np.testing.assert_array_equal(found.positions, [[2, 3], [0, -1], [-1, -1]])
  assert int(found.next_column) == int(found.first_column) == 2


def test_rows_after_a_prefix_are_empty():
  prefix = cache.Cache(
    layers=(cache.LayerCache(jnp.ones((1, 2, 3, 4)), jnp.ones((1, 2, 3, 4))),),
    positions=jnp.array([[-1, 0, 1]]),
    next_column=jnp.asarray(3),
    first_column=jnp.asarray(3),
  )
  rows = cache.init_cache(prefix, 5, 2)
  (layer,) = rows.layers
  assert layer.keys.shape == layer.values.shape == (5, 2, 2, 4)
  assert not np.any(layer.keys) and np.all(rows.positions == -1)
  assert rows.next_column == rows.first_column == 0
  # Position 2 follows positions 0 and 1; without a prefix it is 0.
  valid = jnp.tile(jnp.array([[False, True]]), (5, 1))
  positions, all_positions = rows.next_positions(valid, prefix)
  np.testing.assert_array_equal(positions[:, 1], 2)
  np.testing.assert_array_equal(all_positions, [[-1, 2]] * 5)
  np.testing.assert_array_equal(rows.next_positions(valid)[0][:, 1], 0)
  # After the second of two columns, the next is the first.
  written = [rows.written(rows.layers, all_positions, n) for n in (1, 2)]
  assert [int(after.next_column) for after in written] == [1, 0]
