# SPDX-License-Identifier: Apache-2.0
"""Room at the end, and rows that take another's place."""

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
  places = jnp.broadcast_to(jnp.arange(columns), (rows, columns))
  return cache.Cache(
    keys=(keys,),
    values=(-keys,),
    last_keys=(keys[:, :1, 0],),
    places=places + jnp.arange(rows)[:, None],
    column=jnp.asarray(columns, jnp.int32),
    first=jnp.asarray(columns, jnp.int32),
  )


def test_new_columns_are_empty_and_come_next():
  before = filled(2, 4, 0.0)
  after = cache.widen(before, 3)
  assert after.keys[0].shape == after.values[0].shape == (2, 2, 7, 3)
  np.testing.assert_array_equal(after.values[0][:, :, :4], before.values[0])
  np.testing.assert_array_equal(after.places[:, :4], before.places)
  np.testing.assert_array_equal(after.places[:, 4:], -1)
  assert int(after.column) == int(after.first) == 4


def test_a_row_takes_the_place_of_another():
  own, other = cache.widen(filled(3, 4, 0.0), 2), filled(5, 4, 500.0)
  own = own.replace(places=own.places.at[:, 4:].set(9), column=jnp.asarray(5))
  put = jax.jit(cache.put_row)(own, 1, other, 3)
  for mine, theirs, before in zip(
    (*put.keys, *put.values),
    (*other.keys, *other.values),
    own.keys + own.values,
  ):
    np.testing.assert_array_equal(mine[1, :, :4], theirs[3])
    np.testing.assert_array_equal(mine[0], before[0])
    np.testing.assert_array_equal(mine[2], before[2])
  np.testing.assert_array_equal(put.last_keys[0][1], other.last_keys[0][3])
  # What the row had written is nobody's any more.
  np.testing.assert_array_equal(put.places[1, :4], other.places[3])
  np.testing.assert_array_equal(put.places[1, 4:], -1)
  np.testing.assert_array_equal(put.places[2], own.places[2])
  assert int(put.column) == 5


def test_rows_that_go_on_after_a_beginning_are_empty():
  beginning = cache.Cache(
    keys=(jnp.ones((1, 2, 3, 4)),),
    values=(jnp.ones((1, 2, 3, 4)),),
    last_keys=(jnp.full((1, 1, 4), 7.0),),
    places=jnp.array([[-1, 0, 1]]),
    column=jnp.asarray(3),
    first=jnp.asarray(3),
  )
  rows = cache.begin(beginning, 5, 2)
  ((keys, values, last_keys),) = rows.layers()
  assert keys.shape == values.shape == (5, 2, 2, 4)
  assert not np.any(keys) and np.all(rows.places == -1)
  np.testing.assert_array_equal(last_keys, np.full((5, 1, 4), 7.0))
  assert rows.column == rows.first == 0
  # After positions 0 and 1 comes 2, and where nothing stands, 0.
  valid = jnp.tile(jnp.array([[False, True]]), (5, 1))
  positions, places = rows.placed(valid, beginning)
  np.testing.assert_array_equal(positions[:, 1], 2)
  np.testing.assert_array_equal(places, [[-1, 2]] * 5)
  np.testing.assert_array_equal(rows.placed(valid)[0][:, 1], 0)
  # Two columns are full: the next is the first again.
  assert rows.written(rows.layers(), places, 1).column == 1
  assert rows.written(rows.layers(), places, 2).column == 0
