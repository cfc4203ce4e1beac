# SPDX-License-Identifier: Apache-2.0
"""FLOPs and bytes of passes agree with the compiler and with hand counts."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from rlaif_jax.bench import model_flops
from rlaif_jax.bench import workload
from tests import testing

CONFIG = testing.tiny_decoder(40)


def test_flops_agree_with_the_compiler():
  config = testing.tiny_decoder(300, width=64, num_heads=4, mlp_dim=160)
  functions, params = workload.build(config)
  rows, columns, room = 3, 8, 4
  shape = (rows, columns)
  tokens, valid = jnp.ones(shape, jnp.int32), jnp.ones(shape, bool)

  def read(params, tokens, valid):
    hidden, cache = functions.prefill(params, tokens, valid, room)
    return functions.logits(params, hidden), cache

  counted = jax.jit(read).lower(params, tokens, valid).compile()
  phase = model_flops.forward(
    config, name="prompts", rows=rows, columns=columns, logits=1, states=1
  )
  assert phase.flops == pytest.approx(
    counted.cost_analysis()["flops"], rel=0.15
  )


def test_a_decode_step_reads_weights_and_cache():
  config = testing.tiny_decoder(50)
  phase = model_flops.forward(
    config, name="token", rows=3, columns=1, logits=1, cached=7
  )
  weights = model_flops.block_params(config) + 50 * 16
  cache = 2 * 2 * 2 * 8 * 3 * 7  # Keys and values, layers, heads, channels.
  assert phase.bytes == 4 * (weights + cache)


def test_a_group_pass_with_one_response_is_a_forward_pass():
  plain = model_flops.forward(CONFIG, name="a", rows=3, columns=7, logits=7)
  branch = model_flops.group_pass(
    CONFIG,
    name="a",
    columns=21,
    attended=3 * 28,
    states=21,
    logits=21,
    passes=1,
  )
  assert branch.flops == pytest.approx(plain.flops)


def test_unread_states_save_queries_and_mlp_of_the_last_layer():
  given = dict(name="a", columns=20, attended=100, logits=0, passes=1)
  all_read = model_flops.group_pass(CONFIG, states=20, **given)
  two_read = model_flops.group_pass(CONFIG, states=2, **given)
  width, mlp, heads = 16, 24, 16
  saved = 2 * 18 * (2 * width * heads + 3 * width * mlp)
  assert all_read.flops - two_read.flops == pytest.approx(saved)
