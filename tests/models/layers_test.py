# SPDX-License-Identifier: Apache-2.0
"""Layers against their formulas."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.models import layers
from rlaif_jax.models import architecture_options


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


FREQUENCY = architecture_options.rope_frequencies(8, 100.0, None)


def test_rotary_scores_depend_on_the_distance_alone():
  q = jax.random.normal(jax.random.key(0), (1, 1, 1, 8))
  k = jax.random.normal(jax.random.key(1), (1, 1, 1, 8))

  def score(i, j):
    a = layers.rotary(q, layers.rotations(jnp.array([[i]]), FREQUENCY, 16))
    b = layers.rotary(k, layers.rotations(jnp.array([[j]]), FREQUENCY, 16))
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


@pytest.mark.parametrize("platform, kind", [("cpu", "f32"), ("cuda", "bf16")])
def test_a_bfloat16_product_has_the_type_that_its_platform_is_fast_in(
  platform, kind
):
  a = jnp.ones((4, 8), jnp.bfloat16)
  step = jax.jit(lambda a, b: layers.matmul(a, b, None))
  lowered = step.trace(a, a.T).lower(lowering_platforms=(platform,))
  (line,) = [x for x in lowered.as_text().splitlines() if "dot_general" in x]
  assert line.rstrip().endswith(f"tensor<4x4x{kind}>")


def test_a_rounded_product_and_its_gradient():
  a = jax.random.normal(jax.random.key(0), (3, 5, 8)).astype(jnp.bfloat16)
  b = jax.random.normal(jax.random.key(1), (8, 4)).astype(jnp.bfloat16)
  exact = np.asarray(a, np.float64) @ np.asarray(b, np.float64)
  out = layers.matmul(a, b, None)
  assert out.dtype == jnp.bfloat16
  np.testing.assert_allclose(np.asarray(out, np.float64), exact, rtol=2**-8)
  assert layers.matmul(a, b, jnp.float32).dtype == jnp.float32

  def total(a, b):
    return layers.matmul(a, b, None).astype(jnp.float32).sum()

  grads = jax.jit(jax.grad(jax.checkpoint(total), argnums=(0, 1)))(a, b)
  wanted = jax.grad(lambda a, b: (a @ b).sum(), argnums=(0, 1))(
    a.astype(jnp.float32), b.astype(jnp.float32)
  )
  for found, exact in zip(grads, wanted, strict=True):
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(jnp.float32), exact, rtol=2**-6)
