# SPDX-License-Identifier: Apache-2.0
"""The model has the size it says; its work is counted as the compiler does."""

from __future__ import annotations

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from rlaif_jax.bench import roofline
from rlaif_jax.bench import workload
from rlaif_jax.models import architectures
from tests import testing


def test_the_model_is_the_peers():
  functions = architectures.language(workload.MODEL)
  shapes = nn.unbox(jax.eval_shape(functions.init, jax.random.key(0)))
  sizes = {
    path: leaf.size
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)
  }
  assert round(sum(sizes.values()) / 1e6, 1) == 43.7
  kernels = sum(n for path, n in sizes.items() if path[-1].key == "kernel")
  assert workload.block_numbers(workload.MODEL) == kernels


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
  phase = workload.forward(
    config, name="prompts", rows=rows, columns=columns, logits=1, asked=1
  )
  assert phase.flops == pytest.approx(
    counted.cost_analysis()["flops"], rel=0.15
  )


def test_a_token_reads_weights_and_cache():
  config = testing.tiny_decoder(50)
  phase = workload.forward(
    config, name="token", rows=3, columns=1, logits=1, cached=7
  )
  weights = workload.block_numbers(config) + 50 * 16
  cache = 2 * 2 * 2 * 8 * 3 * 7  # Keys and values, layers, heads, channels.
  assert phase.bytes == 4 * (weights + cache)


def test_the_line_says_what_was_reached(monkeypatch, capsys):
  monkeypatch.setattr(roofline, "seconds_of", lambda call, n: [8.0, 4.0, 5.0])
  machine = roofline.Machine(flops=1.0, bandwidth=1.0)
  monkeypatch.setattr(roofline, "measure", lambda: machine)
  phases = [roofline.Phase(name="all", flops=2.0, bytes=1.0)]
  workload.report("x", "pairs", 10, lambda: None, phases, extra={"rows": 3})
  line = json.loads(capsys.readouterr().out)
  assert line["pairs_per_s"] == 2.0
  assert line["roofline_pairs_per_s"] == 5.0
  assert line["share"] == 0.4
  assert line["rows"] == 3
