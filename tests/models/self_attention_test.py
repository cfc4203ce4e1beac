# SPDX-License-Identifier: Apache-2.0
"""The attention layer with a cache and a prefix."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from rlaif_jax.models import cache as cache_lib
from rlaif_jax.models import prefix_attention
from rlaif_jax.models import self_attention
from rlaif_jax.models import architecture_options
from rlaif_jax.models import layouts

LAYER = self_attention.Attention(
  num_heads=4,
  num_kv_heads=2,
  head_dim=8,
  rope_theta=100.0,
  is_local=False,
  norm_epsilon=1e-6,
  options=architecture_options.ArchitectureOptions(),
  dtype="float32",
)
WIDTH, ROWS, LENGTH, FIRST = 16, 2, 6, 4


def test_own_columns_after_a_prefix_are_those_of_the_whole_row():
  """Two rows share four columns, which are read once, and continue them."""
  generator = np.random.default_rng(0)
  x = generator.normal(0, 1, (ROWS, LENGTH, WIDTH)).astype(np.float32)
  x[:, :FIRST] = x[:1, :FIRST]
  layout = layouts.causal_layout(jnp.ones((ROWS, LENGTH), bool))
  params = LAYER.init(jax.random.key(0), x, layout)
  whole, _ = LAYER.apply(params, x, layout)
  _, prefix = LAYER.apply(
    params, x[:1, :FIRST], layouts.causal_layout(jnp.ones((1, FIRST), bool))
  )
  empty = jnp.zeros((ROWS, 2, LENGTH - FIRST, 8))
  cached = self_attention.CacheSlice(
    cache_lib.LayerCache(empty, empty),
    jnp.asarray(0),
    prefix_attention.Prefix(
      prefix, layouts.Layout(None, None, jnp.ones((1, 1, FIRST), bool))
    ),
  )
  assert cached.num_columns == LENGTH
  rest = layout.part(slice(FIRST, None), slice(FIRST, None))
  found, own = LAYER.apply(params, x[:, FIRST:], rest, cached)
  np.testing.assert_allclose(found, whole[:, FIRST:], atol=1e-5)
  assert own.keys.shape == empty.shape
  assert np.all(np.any(own.keys != 0, axis=-1))
