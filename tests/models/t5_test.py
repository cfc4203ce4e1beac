# SPDX-License-Identifier: Apache-2.0
"""Names, axes and the response's first columns of T5."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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


@pytest.fixture(scope="module")
def model():
  functions = testing.jitted(t5.functions(CONFIG))
  return functions, testing.build(functions)


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


def test_the_first_state_reads_the_prompt_and_no_response(model):
  functions, params = model
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


def test_gradient_is_finite_with_rows_of_padding_only(model):
  functions, params = model
  tokens = jnp.ones((2, 6), jnp.int32)
  valid = jnp.ones((2, 6), bool).at[0].set(False)
  batch = testing.whole_batch(tokens, valid, 2)

  def total(p):
    return jnp.sum(functions.hidden(p, batch)[1] ** 2)

  gradient = jax.jit(jax.grad(total))(params)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))


@pytest.mark.parametrize("step", [1, 2, 5])
def test_cached_reading_with_holes_equals_the_full_forward(model, step):
  functions, params = model
  generator = np.random.default_rng(1)
  prompt, response = 5, 11
  tokens = jnp.asarray(generator.integers(2, 13, (3, prompt + response)))
  valid = generator.random(tokens.shape) < 0.7
  valid[0], valid[1, :prompt] = True, False
  real = np.concatenate([np.ones((3, 1), bool), valid[:, prompt:-1]], axis=1)
  assert not real.all()
  valid = jnp.asarray(valid)
  full = functions.hidden(params, testing.whole_batch(tokens, valid, response))
  first, cache = functions.prefill(
    params, tokens[:, :prompt], valid[:, :prompt], response
  )
  states = [first[:, None]]
  for column in range(prompt, prompt + response - 1, step):
    cut = slice(column, column + step)
    hidden, cache = functions.decode_step(
      params, tokens[:, cut], valid[:, cut], cache
    )
    states.append(hidden)
  cached = jnp.concatenate(states, axis=1)
  np.testing.assert_allclose(cached[real], full[real], atol=2e-5)


def test_holes_are_as_if_not_there(model):
  functions, params = model
  generator = np.random.default_rng(2)
  plain = generator.integers(2, 13, (1, 9))
  full = functions.hidden(
    params,
    testing.whole_batch(jnp.asarray(plain), jnp.ones((1, 9), bool), 5),
  )[0]
  places = np.array([1, 2, 5, 6, 8, 9, 12, 13, 15])  # Prompt: the first 8.
  tokens = generator.integers(2, 13, (1, 16))
  valid = np.zeros((1, 16), bool)
  tokens[0, places], valid[0, places] = plain[0], True
  holed = functions.hidden(
    params, testing.whole_batch(jnp.asarray(tokens), jnp.asarray(valid), 8)
  )[0]
  columns = np.concatenate([[0], places[4:-1] - 8 + 1])
  np.testing.assert_allclose(holed[columns], full, atol=2e-5)


def test_last_is_by_index_and_reads_no_padding():
  functions = testing.jitted(t5.scalar_functions(CONFIG))
  params = testing.build(functions)
  params["head"]["kernel"] += 1.0
  tokens = jnp.asarray(np.random.default_rng(0).integers(2, 13, (3, 9)))
  valid = np.ones((3, 9), bool)
  valid[0, 5:] = False
  valid[1, [5, 7]] = False
  valid = jnp.asarray(valid)
  batch = testing.whole_batch(tokens, valid, 4)
  states, last = functions.states(params, batch), functions.last(params, batch)
  np.testing.assert_allclose(
    last, [states[0, 0], states[1, 4], states[2, 4]], rtol=1e-6
  )
  assert len(np.unique(np.asarray(states[2]).round(4))) == 5
  garbage = batch.replace(tokens=jnp.where(valid, tokens, (tokens + 5) % 13))
  np.testing.assert_array_equal(last, functions.last(params, garbage))


@pytest.mark.parametrize("tied", [True, False])
def test_logits_of_a_bfloat16_model_are_not_rounded(tied):
  config = dataclasses.replace(CONFIG, dtype="bfloat16", tie_embeddings=tied)
  functions = testing.jitted(t5.functions(config))
  params = testing.build(functions)
  params = jax.tree.map(
    lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), params
  )
  hidden = 8 * jax.random.normal(jax.random.key(1), (9, 16), jnp.bfloat16)
  if tied:
    table = params["token_embedder"]["embedding"].T
  else:
    table = params["decoder"]["logits_dense"]["kernel"]
  expected = np.asarray(hidden, np.float64) @ np.asarray(table, np.float64)
  ours = functions.logits(params, hidden)
  assert ours.dtype == jnp.float32
  np.testing.assert_allclose(ours, expected, atol=1e-3)
