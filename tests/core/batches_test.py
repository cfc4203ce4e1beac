# SPDX-License-Identifier: Apache-2.0
"""Batch records pass through jit and keep their fields."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from rlaif_jax.core import batches


def test_records_are_pytrees():
  tokens = jnp.arange(6).reshape(2, 3)
  side = batches.TokenBatch(
    tokens=tokens, valid=tokens > 0, weights=jnp.ones((2, 1))
  )
  pair = batches.PairBatch(
    first=side, second=side, label=jnp.ones(2), weight=jnp.ones(2)
  )
  doubled = jax.jit(lambda p: jax.tree.map(lambda x: x[:1], p))(pair)
  np.testing.assert_array_equal(doubled.first.tokens, tokens[:1])
  assert len(jax.tree.leaves(pair)) == 8
