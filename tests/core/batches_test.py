# SPDX-License-Identifier: Apache-2.0
"""Batch records pass through jit and keep their fields."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from rlaif_jax.core import batches
from tests import testing


def test_records_are_pytrees():
  tokens = jnp.arange(6).reshape(2, 3)
  side = batches.TokenBatch(
    tokens=tokens, valid=tokens > 0, weights=jnp.ones((2, 1))
  )
  pair = testing.pair_batch(
    first=side, second=side, label=jnp.ones(2), weight=jnp.ones(2)
  )
  doubled = jax.jit(lambda p: jax.tree.map(lambda x: x[:1], p))(pair)
  np.testing.assert_array_equal(doubled.first.tokens, tokens[:1])
  assert len(jax.tree.leaves(pair)) == 6


def test_rows_of_one_prompt_become_a_group():
  tokens = jnp.array([[1, 2, 3], [1, 2, 4], [5, 6, 7], [5, 6, 8]])
  side = batches.TokenBatch(
    tokens=tokens, valid=tokens != 5, weights=jnp.ones((4, 1))
  )
  group = testing.grouped(side, 2)
  np.testing.assert_array_equal(group.prompt, [[1, 2], [5, 6]])
  np.testing.assert_array_equal(group.response[..., 0], [[3, 4], [7, 8]])
  np.testing.assert_array_equal(group.prompt_valid, [[1, 1], [0, 1]])
  assert group.response_valid.shape == (2, 2, 1)


def test_a_pair_is_a_group_of_two():
  def side(*last):
    tokens = jnp.array([[1, 2, last[0]], [5, 6, last[1]]])
    return batches.TokenBatch(
      tokens=tokens, valid=tokens > 0, weights=jnp.ones((2, 1))
    )

  pair = testing.pair_batch(
    first=side(3, 7), second=side(4, 0), label=jnp.ones(2), weight=jnp.ones(2)
  )
  group = pair.texts
  np.testing.assert_array_equal(group.prompt, [[1, 2], [5, 6]])
  np.testing.assert_array_equal(group.response[..., 0], [[3, 4], [7, 0]])
  np.testing.assert_array_equal(group.response_valid[..., 0], [[1, 1], [1, 0]])
