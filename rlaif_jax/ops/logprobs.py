# SPDX-License-Identifier: Apache-2.0
"""Logits to log-probs, entropy and exact KL. Softmax is always float32."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def _log_softmax(logits: jax.Array, temperature: float) -> jax.Array:
  scaled = logits.astype(jnp.float32) / temperature
  return jax.nn.log_softmax(scaled, axis=-1)


def token_log_probs(
  logits: Float[Array, "*rows V"],
  tokens: Int[Array, "*rows"],
  *,
  temperature: float = 1.0,
) -> Float[Array, "*rows"]:
  """Returns log-probs of tokens under softmax(logits / temperature).

  It subtracts logsumexp from the chosen logit, without an array [..., V] of
  log-probs.

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


def sequence_log_prob(
  log_probs: Float[Array, "*rows R"], mask: Float[Array, "*rows R"]
) -> Float[Array, "*rows"]:
  """Returns the sum over real tokens; padding is not read."""
  return jnp.sum(jnp.where(mask > 0, log_probs, 0.0), axis=-1)


def entropy(
  logits: Float[Array, "*rows V"], *, temperature: float = 1.0
) -> Float[Array, "*rows"]:
  """Returns the entropy in nats of softmax(logits / temperature)."""
  log_probs = _log_softmax(logits, temperature)
  return -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)


def kl_full(
  logits_p: Float[Array, "*rows V"],
  logits_q: Float[Array, "*rows V"],
  *,
  temperature: float = 1.0,
) -> Float[Array, "*rows"]:
  """Returns the exact KL(p || q) over the vocabulary, in nats."""
  log_p = _log_softmax(logits_p, temperature)
  log_q = _log_softmax(logits_q, temperature)
  return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)
