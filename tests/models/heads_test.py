# SPDX-License-Identifier: Apache-2.0
"""Scalar read-outs at the last real token."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from rlaif_jax.models import decoder
from rlaif_jax.models import heads
from rlaif_jax.models import layouts
from tests import testing


def test_last_real_is_by_index():
  values = jnp.arange(12.0).reshape(3, 4)
  valid = jnp.array([[1, 1, 0, 0], [0, 1, 1, 1], [1, 0, 1, 0]], bool)
  np.testing.assert_array_equal(layouts.last_real(values, valid), [1, 7, 10])


def test_end_token_that_is_also_the_pad_is_read_by_index():
  """Trap: pad = eos and a search for the first pad reads the prompt's end."""
  cfg = decoder.DecoderConfig(
    vocab_size=5,
    width=8,
    num_layers=1,
    num_heads=2,
    num_kv_heads=2,
    head_dim=4,
    mlp_dim=8,
    max_length=8,
  )
  functions = testing.jitted(heads.functions(cfg))
  params = testing.build(functions)
  kernel = jax.random.normal(jax.random.key(1), (8, 1))
  params = {**params, "head": {**params["head"], "kernel": kernel}}
  # 0 is both pad and end: two texts that differ after an inner 0.
  tokens = jnp.array([[3, 0, 1, 0, 0, 0], [3, 0, 2, 0, 0, 0]])
  valid = jnp.array([[1, 1, 1, 1, 0, 0]] * 2, bool)
  rewards = functions.last(params, testing.whole_batch(tokens, valid, 2))
  assert abs(float(rewards[0] - rewards[1])) > 1e-4
  per_token = testing.all_states(functions, params, tokens, valid)
  np.testing.assert_allclose(rewards, per_token[:, 3], rtol=1e-6)


def test_a_new_head_gives_zero():
  cfg = decoder.DecoderConfig(
    vocab_size=5,
    width=8,
    num_layers=1,
    num_heads=2,
    num_kv_heads=1,
    head_dim=4,
    mlp_dim=8,
    max_length=8,
  )
  functions = testing.jitted(heads.functions(cfg))
  params = testing.build(functions)
  tokens = jnp.ones((2, 3), jnp.int32)
  reward = functions.last(
    params, testing.whole_batch(tokens, jnp.ones((2, 3), bool), 1)
  )
  np.testing.assert_array_equal(reward, [0, 0])
