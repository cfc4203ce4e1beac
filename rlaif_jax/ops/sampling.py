# SPDX-License-Identifier: Apache-2.0
"""Logits to tokens: greedy, temperature, top-k, top-p; one key per row."""

from __future__ import annotations

import jax
import jax.numpy as jnp


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
) -> jax.Array:
  """Draws one token per row with that row's own key.

  Args:
    keys: [B] typed PRNG keys.
    logits: [B, V].
    temperature: 0 takes the argmax; static under jit, as the next two.
    top_k: 0 is off.
    top_p: 1 is off; applied after temperature and top_k.

  Returns:
    [B] int32.
  """
  if temperature == 0:
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)
  logits = logits.astype(jnp.float32) / temperature
  if top_k:
    logits = filter_top_k(logits, top_k)
  if top_p < 1.0:
    logits = filter_top_p(logits, top_p)
  return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)
