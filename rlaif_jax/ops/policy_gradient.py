# SPDX-License-Identifier: Apache-2.0
"""Per-token terms of policy-gradient losses; the caller masks and sums."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def reinforce(log_probs: jax.Array, advantages: jax.Array) -> jax.Array:
  """- log pi(a|x) sg(advantage), same shape (paper, appendix F)."""
  return -log_probs * jax.lax.stop_gradient(advantages)


def ppo_clip(
  log_probs: jax.Array,
  old_log_probs: jax.Array,
  advantages: jax.Array,
  *,
  clip: float,
) -> jax.Array:
  """- min(ratio A, clipped ratio A), same shape (arXiv:1707.06347, eq. 7)."""
  advantages = jax.lax.stop_gradient(advantages)
  ratio = jnp.exp(log_probs - jax.lax.stop_gradient(old_log_probs))
  clipped = jnp.clip(ratio, 1.0 - clip, 1.0 + clip)
  return -jnp.minimum(ratio * advantages, clipped * advantages)


def clip_fraction(
  log_probs: jax.Array, old_log_probs: jax.Array, *, clip: float
) -> jax.Array:
  """1 where the importance ratio is outside [1 - clip, 1 + clip]."""
  ratio = jnp.exp(log_probs - old_log_probs)
  return (jnp.abs(ratio - 1.0) > clip).astype(jnp.float32)


def value_loss(values: jax.Array, targets: jax.Array) -> jax.Array:
  """(Z - V)^2, same shape; no factor 1/2, as the paper writes it."""
  return (values - jax.lax.stop_gradient(targets)) ** 2
