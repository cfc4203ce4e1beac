# SPDX-License-Identifier: Apache-2.0
"""Logits to tokens: greedy, temperature, top-k, top-p; one key per row."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rlaif_jax.ops import logprobs

# Tokens that are drawn from together; see `_draw`.
BLOCK = 128


def filter_top_k(logits: jax.Array, top_k: int) -> jax.Array:
  """Keeps the top_k largest of [..., V] (ties all kept), -inf elsewhere."""
  kth = jax.lax.top_k(logits, min(top_k, logits.shape[-1]))[0][..., -1:]
  return jnp.where(logits < kth, -jnp.inf, logits)


def filter_top_p(logits: jax.Array, top_p: float) -> jax.Array:
  """Keeps the fewest tokens of [..., V] that hold mass top_p (nucleus,
  arXiv:1904.09751), and what ties with the last of them; the likeliest token
  always stays. top_p is in (0, 1]."""
  ordered = jnp.sort(logits, axis=-1, descending=True)
  probs = jax.nn.softmax(ordered.astype(jnp.float32), axis=-1)
  before = jnp.cumsum(probs, axis=-1) - probs
  kept = jnp.where(before < top_p, ordered, jnp.inf)
  return jnp.where(
    logits < jnp.min(kept, axis=-1, keepdims=True), -jnp.inf, logits
  )


def sample(
  keys: jax.Array,
  logits: jax.Array,
  *,
  temperature: float,
  top_k: int = 0,
  top_p: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
  """Draws one token per row with that row's own key.

  Args:
    keys: [B] typed PRNG keys.
    logits: [B, V].
    temperature: 0 takes the argmax; static under jit, as the next two.
    top_k: 0 is off.
    top_p: 1 is off; applied after temperature and top_k.

  Returns:
    Tokens [B] int32, and their log-probs [B] under softmax(logits /
    temperature) before any cut (at temperature 1 for greedy).
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
  token, _ = _draw(keys, cut, 1.0)
  return token, logprobs.token_log_probs(logits, token, temperature=temperature)


def _draw(keys, logits, temperature) -> tuple[jax.Array, jax.Array]:
  """Tokens [B] and their log-probs [B]: a block of tokens, then one of it.

  The chance of a block is its share of the mass, so the product of the two is
  the token's own. It takes V / BLOCK + BLOCK random numbers a row where a draw
  from all takes V, and the blocks' masses add up to the log-prob's normaliser.
  """
  rows, vocab = logits.shape
  pad = ((0, 0), (0, -vocab % BLOCK))
  blocks = jnp.pad(logits, pad, constant_values=-jnp.inf)
  blocks = blocks.reshape(rows, -1, BLOCK)
  # Maxima of the logits as they are: no scaled copy of them is made.
  top = jnp.max(blocks, axis=-1)
  top = jnp.where(jnp.isfinite(top), top, 0.0)  # A block that was cut away.
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
