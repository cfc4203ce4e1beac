# SPDX-License-Identifier: Apache-2.0
"""Names, axes and the response's first columns of T5."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from rlaif_jax.interop import names
from rlaif_jax.models import t5
from tests import testing

CONFIG = t5.T5Config(
  vocab_size=13,
  width=16,
  num_layers=2,
  num_decoder_layers=1,
  num_heads=2,
  head_dim=6,
  mlp_dim=24,
  max_length=64,
)


def test_parameters_are_called_and_shaped_as_in_t5x():
  params = names.flatten(testing.build(t5.functions(CONFIG)))
  shapes = {name: leaf.shape for name, leaf in params.items()}
  attention = {
    f"{name}/kernel": (16, 12) for name in ("query", "key", "value")
  } | {"out/kernel": (12, 16)}
  mlp = {
    "wi_0/kernel": (16, 24),
    "wi_1/kernel": (16, 24),
    "wo/kernel": (24, 16),
  }
  expected = {
    "token_embedder/embedding": (13, 16),
    "encoder/relpos_bias/rel_embedding": (2, 32),
    "decoder/relpos_bias/rel_embedding": (2, 32),
    "encoder/encoder_norm/scale": (16,),
    "decoder/decoder_norm/scale": (16,),
    "decoder/logits_dense/kernel": (16, 13),
  }
  for layer in ("encoder/layers_0", "encoder/layers_1"):
    expected |= {f"{layer}/attention/{k}": v for k, v in attention.items()}
    expected |= {f"{layer}/mlp/{k}": v for k, v in mlp.items()}
    for norm in ("pre_attention", "pre_mlp"):
      expected[f"{layer}/{norm}_layer_norm/scale"] = (16,)
  layer = "decoder/layers_0"
  for block in ("self_attention", "encoder_decoder_attention"):
    expected |= {f"{layer}/{block}/{k}": v for k, v in attention.items()}
  expected |= {f"{layer}/mlp/{k}": v for k, v in mlp.items()}
  for norm in ("pre_self_attention", "pre_cross_attention", "pre_mlp"):
    expected[f"{layer}/{norm}_layer_norm/scale"] = (16,)
  assert shapes == expected


def test_logical_axes_are_t5xs():
  boxed = names.flatten(
    jax.eval_shape(t5.functions(CONFIG).init, jax.random.key(0))
  )
  axes = {name: leaf.names for name, leaf in boxed.items()}
  layer = "encoder/layers_0"
  assert axes[f"{layer}/attention/query/kernel"] == ("embed", "joined_kv")
  assert axes[f"{layer}/attention/out/kernel"] == ("joined_kv", "embed")
  assert axes[f"{layer}/mlp/wo/kernel"] == ("mlp", "embed")
  assert axes["token_embedder/embedding"] == ("vocab", "embed")
  assert axes["encoder/relpos_bias/rel_embedding"] == (
    "heads",
    "relpos_buckets",
  )


def test_the_first_state_reads_the_prompt_and_no_response():
  functions = testing.jitted(t5.functions(CONFIG))
  params = testing.build(functions)
  tokens = jnp.asarray(np.random.default_rng(0).integers(3, 13, (2, 8)))
  valid = jnp.ones((2, 8), bool)
  base = functions.hidden(params, testing.whole_batch(tokens, valid, 3))
  other = tokens.at[:, 5].set((tokens[:, 5] + 1) % 13)
  later = functions.hidden(params, testing.whole_batch(other, valid, 3))
  np.testing.assert_array_equal(base[:, 0], later[:, 0])
  assert np.abs(base[:, 1:] - later[:, 1:]).max() > 1e-3
  other = tokens.at[:, 2].set((tokens[:, 2] + 1) % 13)
  prompt = functions.hidden(params, testing.whole_batch(other, valid, 3))
  assert np.abs(base[:, 0] - prompt[:, 0]).max() > 1e-3


def test_gradient_is_finite_with_rows_of_padding_only():
  functions = t5.functions(CONFIG)
  params = testing.build(functions)
  tokens = jnp.ones((2, 6), jnp.int32)
  valid = jnp.ones((2, 6), bool).at[0].set(False)
  batch = testing.whole_batch(tokens, valid, 2)

  def total(p):
    return jnp.sum(functions.hidden(p, batch)[1] ** 2)

  gradient = jax.jit(jax.grad(total))(params)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))
