# SPDX-License-Identifier: Apache-2.0
"""Padding, cache and grouped heads of the decoder."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.models import architecture_options
from rlaif_jax.models import architectures
from rlaif_jax.models import decoder
from rlaif_jax.models import small_world
from tests import testing


def config(**changes):
  sizes = dict(
    vocab_size=13,
    width=16,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=4,
    mlp_dim=24,
    max_length=64,
  )
  return decoder.DecoderConfig(**{**sizes, **changes})


def with_options(**fields):
  options = architecture_options.ArchitectureOptions(**fields)
  return config(architecture_options=options)


CONFIGS = {
  "grouped": config(),
  "untied": config(tie_embeddings=False),
  "previous_keys": small_world.SmallWorldConfig(
    **vars(config()), previous_key_heads=1
  ),
  "gemma": with_options(
    qk_norm=True,
    post_norms=True,
    norm_offset=True,
    activation="gelu_tanh",
    embedding_scale=True,
    query_scale=0.3,
    logit_softcap=10.0,
    window=3,
    global_every=2,
    local_rope_theta=100.0,
    rope_scaling=architecture_options.RopeScaling(kind="linear", factor=4.0),
  ),
}


@functools.cache
def build(cfg, seed=0):
  functions = testing.jitted(architectures.language(cfg))
  return functions, testing.build(functions, seed)


def random_rows(seed=0):
  tokens = np.random.default_rng(seed).integers(0, 13, (2, 10))
  valid = np.array(
    [[0, 0, 1, 1, 1, 1, 0, 1, 1, 1], [1, 1, 1, 1, 0, 0, 1, 1, 1, 0]], bool
  )
  return jnp.asarray(tokens), jnp.asarray(valid)


@pytest.mark.parametrize("name", CONFIGS)
def test_holes_and_padding_change_nothing(name):
  functions, params = build(CONFIGS[name])
  tokens, valid = random_rows()
  hidden = testing.all_hidden(functions, params, tokens, valid)
  for row in range(2):
    kept = tokens[row][valid[row]][None]
    alone = testing.all_hidden(
      functions, params, kept, jnp.ones(kept.shape, bool)
    )[0]
    np.testing.assert_allclose(hidden[row][valid[row]], alone, atol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_garbage_in_padding_changes_nothing(name):
  functions, params = build(CONFIGS[name])
  tokens, valid = random_rows()
  other = jnp.where(valid, tokens, (tokens + 5) % 13)
  a = testing.all_hidden(functions, params, tokens, valid)[valid]
  b = testing.all_hidden(functions, params, other, valid)[valid]
  np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("width", [1, 3])
def test_cached_reading_equals_the_full_forward(name, width):
  functions, params = build(CONFIGS[name])
  tokens, valid = random_rows()
  full = testing.all_hidden(functions, params, tokens, valid)
  last, cache = functions.prefill(params, tokens[:, :5], valid[:, :5], 5)
  newest = [4, 3]  # The last real columns among the first five.
  np.testing.assert_allclose(last, full[np.arange(2), newest], atol=1e-5)
  parts = [full[:, :5]]
  for begin in range(5, 10, width):
    end = min(begin + width, 10)
    part, cache = functions.decode_step(
      params, tokens[:, begin:end], valid[:, begin:end], cache
    )
    parts.append(part)
  cached = jnp.concatenate(parts, axis=1)
  np.testing.assert_allclose(cached[valid], full[valid], atol=1e-5)


def test_no_column_sees_the_future():
  functions, params = build(CONFIGS["previous_keys"])
  tokens, _ = random_rows()
  valid = jnp.ones(tokens.shape, bool)
  changed = tokens.at[:, 6].set((tokens[:, 6] + 1) % 13)
  a = testing.all_hidden(functions, params, tokens, valid)
  b = testing.all_hidden(functions, params, changed, valid)
  np.testing.assert_array_equal(a[:, :6], b[:, :6])
  assert np.abs(a[:, 6:] - b[:, 6:]).max() > 1e-3


def test_gradient_is_finite_with_rows_of_padding_only():
  functions, params = build(CONFIGS["previous_keys"])
  tokens, valid = random_rows()
  valid = valid.at[0].set(False)

  def total(p):
    hidden = testing.all_hidden(functions, p, tokens, valid)
    return jnp.sum(jnp.where(valid[..., None], hidden, 0.0) ** 2)

  gradient = jax.jit(jax.grad(total))(params)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))


@pytest.mark.parametrize("tied", [True, False])
def test_bfloat16_stays_near_float32_and_logits_are_not_rounded(tied):
  functions, params = build(config(tie_embeddings=tied))
  low = testing.jitted(
    decoder.functions(config(tie_embeddings=tied, dtype="bfloat16"))
  )
  tokens, valid = random_rows()
  hidden = testing.all_hidden(functions, params, tokens, valid)
  a = functions.logits(params, hidden)
  b = low.logits(params, testing.all_hidden(low, params, tokens, valid))
  assert b.dtype == jnp.float32
  np.testing.assert_allclose(a[valid], b[valid], atol=0.1)
  assert np.any(b != b.astype(jnp.bfloat16))
