# SPDX-License-Identifier: Apache-2.0
"""Kernels (interpreted) and chunks against the plain form, with gradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.core import batches
from rlaif_jax.core import compute as compute_lib
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.models import architectures
from rlaif_jax.models import attention
from rlaif_jax.models import fused_attention
from rlaif_jax.models import layouts
from tests import testing

ROWS, HEADS, KEY_HEADS, CHANNELS = 2, 4, 2, 8


def arrays(length, dtype="float32", rows=ROWS):
  generator = np.random.default_rng(0)

  def draw(*shape):
    return jnp.asarray(generator.normal(0, 1, shape), dtype)

  heads = (rows, KEY_HEADS, length, CHANNELS)
  return draw(rows, length, HEADS, CHANNELS), draw(*heads), draw(*heads)


def text_layout(name, rows=ROWS, sharding=None):
  """Texts of 150 columns with padding in front, behind and inside."""
  valid = np.ones((rows, 150), bool)
  valid[0, :7] = valid[0, 40:70] = valid[1, 130:] = False
  kernel = layouts.Kernel(name, sharding, interpret=True)
  return layouts.causal_layout(jnp.asarray(valid), kernel)


def group_layout(name, rows=ROWS, sharding=None):
  """A prompt of 60 columns and three responses of 30."""
  valid = np.ones((rows, 150), bool)
  valid[0, :9] = valid[0, 80:90] = valid[1, 100:120] = valid[1, 133:] = False
  valid[1, 20:30] = False
  number = np.concatenate([np.zeros(60), np.repeat([1, 2, 3], 30)])
  kernel = layouts.Kernel(name, sharding, interpret=True)
  layout = layouts.packed_layout(
    jnp.asarray(valid, jnp.int32),
    jnp.broadcast_to(jnp.asarray(number, jnp.int32), valid.shape),
    kernel,
  )
  return layout.replace(continuations=(3, 30))


def read(layout, scale=0.0):
  """Returns outputs where columns have a token, and the gradients of all."""
  valid = (layout.keys.segment_ids > 0)[:, :, None, None]

  def total(*inputs):
    out = attention.attend_rows(*inputs, layout, scale=scale)
    out = jnp.where(valid, out, 0)
    weights = jnp.cos(jnp.arange(out.size)).reshape(out.shape)
    return jnp.sum(out * weights), out

  return jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))


LAYOUTS = {"text": text_layout, "group": group_layout}


@pytest.mark.parametrize("window", [0, 25])
@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("name", ["splash", "chunked"])
def test_the_numbers_are_those_of_the_plain_form(
  monkeypatch, name, kind, window
):
  monkeypatch.setattr(layouts, "BLOCK_SCORES", 0)
  monkeypatch.setattr(fused_attention, "BLOCKS", (128,))
  inputs = arrays(150)
  found, expected = (
    read(LAYOUTS[kind](each).within(window), 0.3)(*inputs)
    for each in (name, "plain")
  )
  for one, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
    np.testing.assert_allclose(one, other, atol=1e-5)
  assert np.abs(expected[1]).max() > 0.5


@pytest.mark.parametrize("kind", LAYOUTS)
def test_bfloat16_stays_near_float32(kind):
  """Scaled queries and weights are rounded to 8 bits: 0.03 of outputs to 3."""
  inputs = arrays(150)
  expected = read(LAYOUTS[kind]("plain"))(*inputs)[1]
  half = [x.astype(jnp.bfloat16) for x in inputs]
  found = read(LAYOUTS[kind]("splash"))(*half)[1]
  np.testing.assert_allclose(found.astype(jnp.float32), expected, atol=0.03)


@pytest.mark.parametrize("mesh", ["data:2,fsdp:2,model:2", "sequence:2,data:4"])
@pytest.mark.parametrize("kind", LAYOUTS)
def test_sharded_rows_columns_and_heads(monkeypatch, kind, mesh):
  monkeypatch.setattr(fused_attention, "BLOCKS", (128,))
  sharding = mesh_lib.activation_sharding(mesh_lib.make_mesh(mesh))
  inputs = arrays(150, rows=4)
  expected = read(LAYOUTS[kind]("plain", 4))(*inputs)
  found = read(LAYOUTS[kind]("splash", 4, sharding))(*inputs)
  for one, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_cudnn_gets_texts_and_their_lengths(monkeypatch):
  """XLA's implementation has the same arguments; its window includes both."""
  monkeypatch.setattr(fused_attention, "CUDNN", "xla")
  inputs = [x.astype(jnp.bfloat16) for x in arrays(150)]
  for window in (0, 25):
    found, expected = (
      read(text_layout(name).within(window))(*inputs)[1].astype(jnp.float32)
      for name in ("cudnn", "plain")
    )
    np.testing.assert_allclose(found, expected, atol=0.03)


@pytest.mark.parametrize("kind, prompt", [("text", 150), ("group", 60)])
@pytest.mark.parametrize("window", [0, 25])
def test_a_mask_of_blocks_is_the_mask_without_padding(kind, prompt, window):
  layout = LAYOUTS[kind]("plain")
  full = jnp.ones_like(layout.keys.segment_ids)
  if kind == "text":
    full = layouts.causal_layout(full > 0)
  else:
    full = layouts.packed_layout(full, layout.keys.continuation_ids)
  mask = fused_attention.RowMask(
    150, prompt, 150 if kind == "text" else 30, window
  )
  np.testing.assert_array_equal(
    mask[(slice(None), slice(None))], full.within(window).mask[0]
  )


def test_blocks_pad_little():
  assert fused_attention.block_of(1152) == (384, 1152)
  assert fused_attention.block_of(8192) == (512, 8192)
  assert fused_attention.block_of(130) == (256, 256)


def test_memory_of_chunks_is_linear_in_the_length():
  """By the compiler's own numbers: forward and gradient."""

  def temporary(length):
    layout = layouts.causal_layout(
      jnp.ones((1, length), bool), layouts.Kernel("chunked")
    )
    inputs = jax.eval_shape(lambda: arrays(length, rows=1))
    compiled = read(layout).lower(*inputs).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  short, long = temporary(4096), temporary(16384)
  assert long < 4.5 * short
  assert long < HEADS * 16384**2 * 4 / 20, "a part of the scores"


@pytest.mark.parametrize("remat, kept", [("full", 0), ("attention", 2)])
def test_remat_may_keep_the_outputs_of_a_kernel(capsys, remat, kept):
  """The output and the log-sum-exp of each layer."""
  compute = compute_lib.ComputeConfig(attention="splash", remat=remat)
  options = architectures.ForwardOptions(compute=compute)
  config = testing.tiny_decoder(13)
  model = architectures.language(config, options)
  params = testing.build(model)
  tokens = jnp.ones((1, 128), jnp.int32)
  batch = batches.TokenBatch(
    tokens=tokens, valid=tokens > 0, weights=jnp.ones((1, 64))
  )
  jax.ad_checkpoint.print_saved_residuals(
    lambda params: jnp.sum(model.hidden(params, batch)), params
  )
  printed = capsys.readouterr().out
  assert printed.count("'_splash_attention'") == kept * config.num_layers
