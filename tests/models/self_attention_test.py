# SPDX-License-Identifier: Apache-2.0
"""The attention layer: its cache, and its first keys."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rlaif_jax.models import attention
from rlaif_jax.models import prefix_attention
from rlaif_jax.models import self_attention
from rlaif_jax.models import architecture_options

LAYER = self_attention.Attention(
  num_heads=4,
  num_kv_heads=2,
  head_dim=8,
  rope_theta=100.0,
  is_local=False,
  norm_epsilon=1e-6,
  variant=architecture_options.Variant(previous_key_heads=1),
  dtype="float32",
)
WIDTH, ROWS, LENGTH, FIRST = 16, 2, 6, 4


def test_own_columns_after_a_beginning_are_those_of_the_whole_row():
  """Four columns that two rows share are read once, the others after them."""
  generator = np.random.default_rng(0)
  x = generator.normal(0, 1, (ROWS, LENGTH, WIDTH)).astype(np.float32)
  x[:, :FIRST] = x[:1, :FIRST]
  valid = jnp.ones((ROWS, LENGTH), bool)
  positions = jnp.broadcast_to(jnp.arange(LENGTH), (ROWS, LENGTH))
  mask = attention.causal_mask(valid)
  params = LAYER.init(jax.random.key(0), x, positions, valid, mask)
  whole, _ = LAYER.apply(params, x, positions, valid, mask)

  def cut(array):
    return array[:1, :FIRST]

  _, (keys, values, last) = LAYER.apply(
    params, *map(cut, (x, positions, valid)), cut(mask)[..., :FIRST]
  )
  room = LENGTH - FIRST
  empty = jnp.zeros((ROWS, 2, room, 8))
  cached = self_attention.Cached(
    empty,
    empty,
    jnp.repeat(last, ROWS, axis=0),
    jnp.asarray(0),
    prefix_attention.Beginning(keys, values, jnp.ones((1, 1, FIRST), bool)),
  )
  assert cached.columns == LENGTH
  rest = (a[:, FIRST:] for a in (x, positions, valid))
  found, (own, _, _) = LAYER.apply(
    params, *rest, mask[:, FIRST:, FIRST:], cached
  )
  np.testing.assert_allclose(found, whole[:, FIRST:], atol=1e-5)
  assert own.shape == (ROWS, 2, room, 8) and np.all(np.any(own != 0, axis=-1))


def test_first_keys_are_copies_of_the_queries_that_read_them():
  x = jnp.zeros((1, 2, WIDTH))
  valid = jnp.ones((1, 2), bool)
  params = LAYER.init(
    jax.random.key(0),
    x,
    jnp.zeros((1, 2), jnp.int32),
    valid,
    attention.causal_mask(valid),
  )["params"]
  before = nn.unbox(params)["query"]["kernel"]
  self_attention.match_keys_to_queries(params, 1.5)
  after = nn.unbox(params)
  query, key = (after[name]["kernel"] for name in ("query", "key"))
  np.testing.assert_allclose(query, 1.5 * before)
  np.testing.assert_array_equal(key, query[:, ::2])
