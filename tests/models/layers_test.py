# SPDX-License-Identifier: Apache-2.0
"""Layers against their formulas."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rlaif_jax.models import layers
from rlaif_jax.models import variant


def build(module, *inputs):
  variables = module.init(jax.random.key(0), *inputs)
  return nn.unbox(variables), module


def test_projection_is_an_einsum_over_the_last_axes():
  x = jax.random.normal(jax.random.key(1), (2, 3, 4, 5))
  module = layers.Projection((6,), ("heads", "head_dim", "embed"), num_inputs=2)
  variables, module = build(module, x)
  kernel = variables["params"]["kernel"]
  expected = jnp.einsum("blhc,hcd->bld", x, kernel)
  np.testing.assert_allclose(
    module.apply(variables, x), expected, rtol=1e-4, atol=1e-5
  )


def test_rms_norm_by_hand():
  x = jnp.array([[3.0, 4.0]])
  variables, module = build(layers.RMSNorm(epsilon=0.0), x)
  expected = np.array([[3.0, 4.0]]) / np.sqrt(12.5)
  np.testing.assert_allclose(module.apply(variables, x), expected, rtol=1e-6)


FREQUENCY = variant.rope_frequencies(8, 100.0, None)


def test_rotary_scores_depend_on_the_distance_alone():
  q = jax.random.normal(jax.random.key(0), (1, 1, 1, 8))
  k = jax.random.normal(jax.random.key(1), (1, 1, 1, 8))

  def score(i, j):
    a = layers.rotary(q, jnp.array([[i]]), FREQUENCY)
    b = layers.rotary(k, jnp.array([[j]]), FREQUENCY)
    return float(jnp.sum(a * b))

  np.testing.assert_allclose(score(7, 3), score(14, 10), rtol=1e-4)
  assert abs(score(7, 3) - score(7, 4)) > 1e-3
  np.testing.assert_allclose(score(0, 0), float(jnp.sum(q * k)), rtol=1e-5)


def test_gated_mlp_by_hand():
  x = jax.random.normal(jax.random.key(1), (2, 4))
  variables, module = build(layers.GatedMLP(6), x)
  p = {k: v["kernel"] for k, v in variables["params"].items()}
  gate = x @ p["gate"]
  expected = (gate * jax.nn.sigmoid(gate) * (x @ p["up"])) @ p["down"]
  np.testing.assert_allclose(module.apply(variables, x), expected, rtol=1e-4)
