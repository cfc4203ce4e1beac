# SPDX-License-Identifier: Apache-2.0
"""Masks, positions, layouts and grouped heads by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from rlaif_jax.models import attention


def test_positions_skip_padding():
  valid = jnp.array([[0, 1, 0, 1, 1]], bool)
  np.testing.assert_array_equal(
    attention.positions_from_valid(valid), [[0, 0, 0, 1, 2]]
  )


def test_mask_is_causal_and_valid():
  mask = attention.causal_mask(jnp.array([[1, 0, 1]], bool))[0]
  np.testing.assert_array_equal(mask, [[1, 0, 0], [1, 0, 0], [1, 0, 1]])


def test_attend_against_loops():
  keys = jax.random.split(jax.random.key(0), 3)
  query = jax.random.normal(keys[0], (1, 3, 4, 2))
  key = jax.random.normal(keys[1], (1, 2, 3, 2))
  value = jax.random.normal(keys[2], (1, 2, 3, 2))
  mask = attention.causal_mask(jnp.array([[1, 0, 1]], bool))
  result = np.asarray(attention.attend(query, key, value, mask))
  for i in range(3):
    for head in range(4):
      group = head // 2
      scores = np.array(
        [
          float(query[0, i, head] @ key[0, group, j]) / np.sqrt(2)
          if mask[0, i, j]
          else -np.inf
          for j in range(3)
        ]
      )
      weights = np.exp(scores - scores.max())
      weights /= weights.sum()
      expected = weights @ np.asarray(value[0, group])
      np.testing.assert_allclose(result[0, i, head], expected, rtol=1e-4)


def test_a_layout_at_columns_and_within_a_window():
  layout = attention.causal_layout(jnp.array([[1, 0, 1, 1]], bool))
  np.testing.assert_array_equal(layout.positions, [[0, 0, 1, 2]])
  near = layout.within(2).at(jnp.array([[3, 0]]))
  assert layout.is_whole and not near.is_whole
  np.testing.assert_array_equal(near.positions, [[2, 0]])
  np.testing.assert_array_equal(near.key_positions, layout.key_positions)
  np.testing.assert_array_equal(near.mask[0], [[0, 0, 1, 1], [1, 0, 0, 0]])


def test_packed_columns_attend_to_their_prompt_and_continuation():
  layout = attention.packed_layout(
    jnp.array([[1, 1, 1, 2, 2, 0]]), jnp.array([[0, 1, 2, 0, 1, 0]])
  )
  np.testing.assert_array_equal(
    layout.mask[0],
    [
      [1, 0, 0, 0, 0, 0],
      [1, 1, 0, 0, 0, 0],
      [1, 0, 1, 0, 0, 0],
      [0, 0, 0, 1, 0, 0],
      [0, 0, 0, 1, 1, 0],
      [0, 0, 0, 0, 0, 0],
    ],
  )
  np.testing.assert_array_equal(layout.positions, [[0, 1, 1, 0, 1, 0]])
