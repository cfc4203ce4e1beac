# SPDX-License-Identifier: Apache-2.0
"""Masks, positions, grouped heads and previous keys by hand."""

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


def test_previous_keys_skip_padding():
  key = jnp.arange(5.0).reshape(1, 5, 1, 1) + 1
  valid = jnp.array([[0, 1, 0, 1, 1]], bool)
  last = jnp.full((1, 1, 1), 9.0)
  shifted, new_last = attention.previous_keys(key, valid, last)
  # Column 1 is the first real one: before it stands what came earlier.
  np.testing.assert_array_equal(shifted[0, :, 0, 0], [9, 9, 2, 2, 4])
  assert float(new_last[0, 0, 0]) == 5.0
