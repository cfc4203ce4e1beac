# SPDX-License-Identifier: Apache-2.0
"""Per-token terms of policy-gradient losses; the caller masks and sums."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def reinforce(
  log_probs: Float[Array, "*rows"], advantages: Float[Array, "*rows"]
) -> Float[Array, "*rows"]:
  """Returns - log pi(a|x) stop_gradient(advantage) (paper, appendix F)."""
  return -log_probs * jax.lax.stop_gradient(advantages)


def ppo_clip(
  log_probs: Float[Array, "*rows"],
  old_log_probs: Float[Array, "*rows"],
  advantages: Float[Array, "*rows"],
  *,
  clip: float,
) -> Float[Array, "*rows"]:
  """Returns - min(ratio A, clipped ratio A) (arXiv:1707.06347, eq. 7)."""
  advantages = jax.lax.stop_gradient(advantages)
  ratio = jnp.exp(log_probs - jax.lax.stop_gradient(old_log_probs))
  clipped = jnp.clip(ratio, 1.0 - clip, 1.0 + clip)
  return -jnp.minimum(ratio * advantages, clipped * advantages)


def clip_fraction(
  log_probs: Float[Array, "*rows"],
  old_log_probs: Float[Array, "*rows"],
  *,
  clip: float,
) -> Float[Array, "*rows"]:
  """Returns 1 where the importance ratio is outside [1 - clip, 1 + clip]."""
  ratio = jnp.exp(log_probs - old_log_probs)
  return (jnp.abs(ratio - 1.0) > clip).astype(jnp.float32)


def value_loss(
  values: Float[Array, "*rows"], targets: Float[Array, "*rows"]
) -> Float[Array, "*rows"]:
  """Returns (Z - V)^2, without a factor 1/2, as in the paper."""
  return (values - jax.lax.stop_gradient(targets)) ** 2
