# SPDX-License-Identifier: Apache-2.0
"""Logits to tokens: greedy, temperature, top-k, top-p; one key per row."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from rlaif_jax.ops import logprobs

# Tokens per block; see `_draw`.
BLOCK = 128


def filter_top_k(
  logits: Float[Array, "*rows V"], top_k: int
) -> Float[Array, "*rows V"]:
  """Keeps the top_k largest logits and all ties; the others become -inf."""
  kth = jax.lax.top_k(logits, min(top_k, logits.shape[-1]))[0][..., -1:]
  return jnp.where(logits < kth, -jnp.inf, logits)


def filter_top_p(
  logits: Float[Array, "*rows V"], top_p: float
) -> Float[Array, "*rows V"]:
  """Keeps the fewest tokens with mass top_p, and ties (arXiv:1904.09751).

  The likeliest token is always kept. top_p is in (0, 1].
  """
  ordered = jnp.sort(logits, axis=-1, descending=True)
  probs = jax.nn.softmax(ordered.astype(jnp.float32), axis=-1)
  before = jnp.cumsum(probs, axis=-1) - probs
  kept = jnp.where(before < top_p, ordered, jnp.inf)
  return jnp.where(
    logits < jnp.min(kept, axis=-1, keepdims=True), -jnp.inf, logits
  )


def sample(
  keys: Key[Array, " B"],
  logits: Float[Array, "B V"],
  *,
  temperature: float,
  top_k: int = 0,
  top_p: float = 1.0,
) -> tuple[Int[Array, " B"], Float[Array, " B"]]:
  """Samples one token per row with the key of the row.

  Args:
    keys: [B] typed PRNG keys.
    logits: [B, V].
    temperature: 0 takes the argmax; static under jit, like the next two.
    top_k: 0 is off.
    top_p: 1 is off; applied after temperature and top_k.

  Returns:
    Tokens [B] int32, and their log-probs [B] under the distribution that they
    are sampled from, after top_k and top_p. Greedy tokens have the log-probs of
    temperature 1.
  """
  logits = logits.astype(jnp.float32)
  if temperature == 0:
    token = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    return token, logprobs.token_log_probs(logits, token)
  if not top_k and top_p == 1.0:
    return _draw(keys, logits, temperature)
  cut = logits / temperature
  if top_k:
    cut = filter_top_k(cut, top_k)
  if top_p < 1.0:
    cut = filter_top_p(cut, top_p)
  return _draw(keys, cut, 1.0)


def _draw(keys, logits, temperature) -> tuple[jax.Array, jax.Array]:
  """Samples a block of tokens, then a token of it: tokens [B], log-probs [B].

  The probability of a block is its mass, so the product of both is that of the
  token. A row takes V / BLOCK + BLOCK random numbers in place of V, and the
  sum of the block masses normalises the log-prob.
  """
  rows, vocab = logits.shape
  pad = ((0, 0), (0, -vocab % BLOCK))
  blocks = jnp.pad(logits, pad, constant_values=-jnp.inf)
  blocks = blocks.reshape(rows, -1, BLOCK)
  # The maximum of unscaled logits avoids a scaled copy.
  top = jnp.max(blocks, axis=-1)
  top = jnp.where(
    jnp.isfinite(top), top, 0.0
  )  # A block whose tokens are all -inf.
  mass = jnp.exp((blocks - top[..., None]) / temperature)
  mass = top / temperature + jnp.log(jnp.sum(mass, axis=-1))
  draw = jax.vmap(jax.random.categorical)
  inside = jax.vmap(jax.random.fold_in, (0, None))(keys, 1)
  block = draw(keys, mass)
  chosen = jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0]
  chosen = chosen / temperature
  place = draw(inside, chosen)
  log_prob = jnp.take_along_axis(chosen, place[:, None], axis=1)[:, 0]
  token = block * BLOCK + place
  return token.astype(jnp.int32), log_prob - jax.nn.logsumexp(mass, axis=-1)
