# SPDX-License-Identifier: Apache-2.0
"""Logits to log-probs, entropy and exact KL. Softmax is always float32."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def _log_softmax(logits: jax.Array, temperature: float) -> jax.Array:
  scaled = logits.astype(jnp.float32) / temperature
  return jax.nn.log_softmax(scaled, axis=-1)


def token_log_probs(
  logits: jax.Array, tokens: jax.Array, *, temperature: float = 1.0
) -> jax.Array:
  """Log-prob of each token under softmax(logits / temperature).

  The chosen logit minus logsumexp: no [..., V] array of log-probs is made.

  Args:
    logits: [..., V], any float type.
    tokens: [...] int.
    temperature: > 0.

  Returns:
    [...] float32.
  """
  scaled = logits.astype(jnp.float32) / temperature
  chosen = jnp.take_along_axis(scaled, tokens[..., None], axis=-1)[..., 0]
  return chosen - jax.nn.logsumexp(scaled, axis=-1)


def sequence_log_prob(log_probs: jax.Array, mask: jax.Array) -> jax.Array:
  """Sum over real tokens: [B, R], [B, R] -> [B]; padding is not read."""
  return jnp.sum(jnp.where(mask > 0, log_probs, 0.0), axis=-1)


def entropy(logits: jax.Array, *, temperature: float = 1.0) -> jax.Array:
  """Entropy in nats of softmax(logits / temperature): [..., V] -> [...]."""
  log_probs = _log_softmax(logits, temperature)
  return -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)


def kl_full(
  logits_p: jax.Array, logits_q: jax.Array, *, temperature: float = 1.0
) -> jax.Array:
  """Exact KL(p || q) over the vocabulary, in nats: [..., V] -> [...]."""
  log_p = _log_softmax(logits_p, temperature)
  log_q = _log_softmax(logits_q, temperature)
  return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)
