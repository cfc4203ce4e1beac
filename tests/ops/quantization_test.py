# SPDX-License-Identifier: Apache-2.0
"""Codes and scales of kernels, and models that read them."""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.core import batches
from rlaif_jax.core import compute as compute_lib
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.models import decoder
from rlaif_jax.models import layers
from rlaif_jax.models import lora
from rlaif_jax.ops import quantization
from tests import testing

pytest.importorskip("qwix")
CONFIG = testing.tiny_decoder(11)
BATCH = batches.TokenBatch(
  tokens=jnp.asarray([[3, 5, 2, 7]]),
  valid=jnp.ones((1, 4), bool),
  weights=jnp.ones((1, 3), jnp.float32),
)
# The values of QLoRA, from its Appendix E to three digits.
NF4 = [-1, -0.696, -0.525, -0.395, -0.284, -0.185, -0.091, 0]
NF4 += [0.080, 0.161, 0.246, 0.338, 0.441, 0.563, 0.723, 1]


def kernel(shape, seed=0):
  values = np.random.default_rng(seed).normal(size=shape)
  return jnp.asarray(values, jnp.float32)


@pytest.mark.parametrize(
  "shape, num_inputs", [((6, 5), 1), ((6, 2, 5), 1), ((2, 6, 5), 2)]
)
def test_int8_by_hand(shape, num_inputs):
  x = kernel(shape)
  codes, scale = quantization.quantize(x, num_inputs, "int8")
  expected = np.abs(x).max(axis=tuple(range(num_inputs)), keepdims=True) / 127
  assert codes.dtype == jnp.int8 and codes.shape == shape
  # qwix divides by 127.5.
  np.testing.assert_allclose(scale, expected, rtol=5e-3)
  error = np.abs(quantization.dequantize(codes, scale) - x)
  # Only the largest code is clipped, by half a step.
  assert (error <= np.broadcast_to(scale, shape) * 0.51).all()


def test_nf4_takes_the_nearest_of_sixteen_values():
  x = kernel((128, 3))
  codes, scale = quantization.quantize(x, 1, "nf4")
  assert codes.dtype == jnp.uint4 and scale.shape == (2, 3)
  blocks = np.asarray(x).reshape(2, 64, 3)
  np.testing.assert_allclose(scale, np.abs(blocks).max(1), rtol=1e-6)
  ratio = (blocks / np.asarray(scale)[:, None]).reshape(128, 3)
  nearest = np.abs(ratio[..., None] - np.array(NF4)).argmin(-1)
  # Three digits decide all but the ties.
  assert (nearest == np.asarray(codes, np.int32)).mean() > 0.99


@pytest.mark.parametrize("shape, scales", [((48, 4), 3), ((5, 4), 5)])
def test_nf4_blocks_divide_the_inputs(shape, scales):
  _, scale = quantization.quantize(kernel(shape), 1, "nf4")
  assert scale.shape == (scales, 4)


@pytest.fixture(scope="module")
def model():
  return testing.jitted(decoder.functions(CONFIG))


@pytest.fixture(scope="module")
def params(model):
  return testing.build(model)


def stored(params, dtype, mesh="data:1", devices=1):
  built = mesh_lib.make_mesh(mesh, jax.devices()[:devices])
  placement = compute_lib.Placement(dtype=dtype)
  init = decoder.functions(CONFIG).init
  return mesh_lib.make_reshard(init, built, placement)(params)


@pytest.mark.parametrize("dtype", quantization.CODES)
def test_a_model_reads_its_codes(model, params, dtype):
  small = stored(params, dtype)
  query = small["blocks_0"]["attention"]["query"]
  assert query["kernel"].dtype == quantization.CODES[dtype]
  assert small["embedding"]["table"].dtype == jnp.bfloat16
  whole = stored(small, "float32")
  assert jax.tree.structure(whole) == jax.tree.structure(params)
  np.testing.assert_allclose(
    model.hidden(small, BATCH),
    model.hidden(whole, BATCH),
    rtol=1e-5,
    atol=1e-5,
  )
  gap = model.hidden(small, BATCH) - model.hidden(params, BATCH)
  assert 0 < jnp.abs(gap).max() < {"int8": 0.1, "nf4": 1.0}[dtype]


@pytest.mark.parametrize("dtype", quantization.CODES)
def test_a_loop_over_layers_and_shards_change_nothing(params, dtype):
  options = layers.ForwardOptions(
    compute=compute_lib.ComputeConfig(scan_layers=True)
  )
  plain = decoder.functions(CONFIG).hidden(stored(params, dtype), BATCH)
  shared = stored(params, dtype, "fsdp:2,model:2", 4)
  gate = shared["blocks_0"]["mlp"]["gate"]
  spec = jax.sharding.PartitionSpec("fsdp", "model")
  assert gate["kernel"].sharding.spec == spec
  scanned = decoder.functions(CONFIG, options).hidden(shared, BATCH)
  np.testing.assert_allclose(plain, scanned, rtol=1e-4, atol=1e-4)


def test_codes_are_copied_and_not_quantized_twice(params):
  small = stored(params, "nf4")
  again = stored(small, "nf4")
  for one, other in zip(*map(jax.tree.leaves, (small, again)), strict=True):
    np.testing.assert_array_equal(
      np.asarray(one, np.float32), np.asarray(other, np.float32)
    )


def test_adapters_on_codes_merge_to_what_they_compute(model, params):
  config = lora.LoraConfig(rank=2, targets=(r".*/query/kernel",))
  small = stored(params, "int8")
  adapters = jax.tree.map(
    lambda x: x + 0.1, lora.init(jax.random.key(0), small, config)
  )
  merged = lora.merge(small, adapters, config)
  assert jax.tree.structure(merged) == jax.tree.structure(params)
  np.testing.assert_allclose(
    model.hidden(lora.attach(small, adapters, config), BATCH),
    model.hidden(merged, BATCH),
    rtol=1e-4,
    atol=1e-4,
  )


def test_a_missing_library_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, "qwix", None)
  quantization._qwix.cache_clear()
  with pytest.raises(ValueError, match=r"rlaif_jax\[quantization\]"):
    quantization.quantize(kernel((4, 4)), 1, "int8")
