# SPDX-License-Identifier: Apache-2.0
"""Previous-token keys and matched kernels, against their definitions."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.models import attention
from rlaif_jax.models import decoder
from rlaif_jax.models import layers
from rlaif_jax.models import layouts
from rlaif_jax.models import small_world
from tests import testing

CONFIG = small_world.SmallWorldConfig(
  vocab_size=13,
  width=16,
  num_layers=2,
  num_heads=4,
  num_kv_heads=2,
  head_dim=4,
  mlp_dim=24,
  max_length=64,
  previous_key_heads=1,
)
LAYER = small_world.SmallWorldAttention(
  num_heads=4,
  num_kv_heads=2,
  head_dim=8,
  rope_theta=100.0,
  is_local=False,
  norm_epsilon=1e-6,
  options=CONFIG.architecture_options,
  dtype="float32",
  previous_key_heads=1,
)


def test_keys_are_those_of_the_previous_token():
  """By hand: holes are skipped, and a first token has a key of zero."""
  x = np.random.default_rng(0).normal(0, 1, (1, 5, 16)).astype(np.float32)
  valid = jnp.array([[0, 1, 0, 1, 1]], bool)
  layout = layouts.causal_layout(valid)
  params = LAYER.init(jax.random.key(0), x, layout)
  _, cache = LAYER.apply(params, x, layout)
  kernel = nn.unbox(params)["params"]["key"]["kernel"]
  own = np.einsum("bld,dhc->blhc", x, kernel)
  moved = own.copy()
  moved[0, [1, 3, 4], 0] = [0 * own[0, 1, 0], own[0, 1, 0], own[0, 3, 0]]
  frequencies = LAYER.bind(params)._frequencies()
  angles = layers.rotations(layout.positions, frequencies, 5)
  expected = attention.heads_first(layers.rotary(jnp.asarray(moved), angles))
  real = np.flatnonzero(valid[0])
  np.testing.assert_allclose(
    cache.keys[:, :, real], expected[:, :, real], atol=1e-5
  )
  np.testing.assert_allclose(
    cache.own_keys, attention.heads_first(own[:, :, :1]), atol=1e-5
  )


def test_without_previous_keys_it_is_a_decoder():
  config = dataclasses.replace(CONFIG, previous_key_heads=0)
  tokens = jnp.asarray(np.random.default_rng(0).integers(0, 13, (2, 6)))
  valid = jnp.ones(tokens.shape, bool)
  plain, other, none = (
    testing.jitted(make(each))
    for make, each in (
      (decoder.functions, CONFIG),
      (small_world.functions, CONFIG),
      (small_world.functions, config),
    )
  )
  params = testing.build(plain)
  expected = testing.all_hidden(plain, params, tokens, valid)
  found = testing.all_hidden(none, params, tokens, valid)
  np.testing.assert_array_equal(found, expected)
  moved = testing.all_hidden(other, params, tokens, valid)
  assert np.abs(moved - expected).max() > 1e-3


def test_key_kernels_start_as_copies_of_the_queries_that_read_them():
  x = jnp.zeros((1, 2, 16))
  layout = layouts.causal_layout(jnp.ones((1, 2), bool))
  params = LAYER.init(jax.random.key(0), x, layout)["params"]
  before = nn.unbox(params)["query"]["kernel"]
  small_world.match_keys_to_queries(params, 1.5)
  after = nn.unbox(params)
  query, key = (after[name]["kernel"] for name in ("query", "key"))
  np.testing.assert_allclose(query, 1.5 * before)
  np.testing.assert_array_equal(key, query[:, ::2])


def test_a_language_model_starts_with_matched_kernels_in_every_layer():
  config = dataclasses.replace(CONFIG, match_gain=1.5)
  params = testing.build(small_world.functions(config))
  for layer in ("blocks_0", "blocks_1"):
    query, key = (
      params[layer]["attention"][name]["kernel"] for name in ("query", "key")
    )
    np.testing.assert_allclose(key, query[:, ::2], rtol=1e-6)


@pytest.mark.parametrize(
  "changes, word",
  [
    ({"previous_key_heads": 3}, "previous_key_heads is 3"),
    ({"match_gain": -1.0}, "match_gain is -1.0"),
    (
      {
        "architecture_options": dataclasses.replace(
          CONFIG.architecture_options, window=3
        )
      },
      "window is 3",
    ),
    ({"width": 0}, "width"),
  ],
)
def test_bad_sizes_are_named(changes, word):
  with pytest.raises(ValueError, match=word):
    dataclasses.replace(CONFIG, **changes)
