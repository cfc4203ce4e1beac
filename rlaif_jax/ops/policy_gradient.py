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


def log_ratios(
  log_probs: Float[Array, "*rows R"],
  old_log_probs: Float[Array, "*rows R"],
  mask: Float[Array, "*rows R"],
  *,
  level: str,
) -> Float[Array, "*rows R"]:
  """Returns log(pi / pi_old), 0 at padding.

  Args:
    log_probs: [..., R] under the policy that is updated.
    old_log_probs: [..., R] under the one before the update, without gradient.
    mask: [..., R], 1 for real tokens.
    level: "token"; or "sequence", the mean over the response's tokens at each
      of them: the logarithm of GSPO's ratio (arXiv:2507.18071, eq. 7).
  """
  gap = log_probs - jax.lax.stop_gradient(old_log_probs)
  gap = jnp.where(mask > 0, gap, 0.0)
  if level == "token":
    return gap
  count = jnp.maximum(jnp.sum(mask, axis=-1, keepdims=True), 1.0)
  mean = jnp.sum(gap, axis=-1, keepdims=True) / count
  return jnp.where(mask > 0, mean, 0.0)


def ppo_clip(
  log_ratio: Float[Array, "*rows"],
  advantages: Float[Array, "*rows"],
  *,
  low: float,
  high: float,
  dual: float = 0.0,
) -> Float[Array, "*rows"]:
  """Returns - min(ratio A, clipped ratio A) (arXiv:1707.06347, eq. 7).

  Args:
    log_ratio: see `log_ratios`.
    advantages: A, without gradient.
    low: the ratio is clipped at 1 - low,
    high: and at 1 + high. A larger high than low is DAPO's clip-higher
      (arXiv:2503.14476, eq. 10).
    dual: largest weight of a negative advantage (dual clip, arXiv:1912.09729,
      eq. 5): the objective is at least dual A. 0 is off.
  """
  advantages = jax.lax.stop_gradient(advantages)
  ratio = jnp.exp(log_ratio)
  clipped = jnp.clip(ratio, 1.0 - low, 1.0 + high)
  terms = jnp.minimum(ratio * advantages, clipped * advantages)
  if dual:
    floor = jnp.where(advantages < 0, dual * advantages, -jnp.inf)
    terms = jnp.maximum(terms, floor)
  return -terms


def clip_fraction(
  log_ratio: Float[Array, "*rows"], *, low: float, high: float
) -> Float[Array, "*rows"]:
  """Returns 1 where the importance ratio is outside [1 - low, 1 + high]."""
  ratio = jnp.exp(log_ratio)
  return ((ratio < 1.0 - low) | (ratio > 1.0 + high)).astype(jnp.float32)


def sampler_weights(
  log_ratio: Float[Array, "*rows R"],
  mask: Float[Array, "*rows R"],
  *,
  method: str,
  level: str,
  limit: float,
) -> Float[Array, "*rows R"]:
  """Returns weights that correct for another sampler than the policy.

  The weight is pi / sampler of a token, or of the whole response (a product
  over its tokens). It is bounded, since a few large weights would decide the
  gradient (Yao et al. 2025, "Your efficient RL framework secretly brings you
  off-policy RL training").

  Args:
    log_ratio: [..., R] log pi - log sampler of the sampled tokens.
    mask: [..., R], 1 for real tokens.
    method: "truncate" takes min(weight, limit); "mask" takes 0 for weights
      above the limit.
    level: "token" or "sequence".
    limit: largest weight, >= 1.

  Returns:
    [..., R] without gradient, 0 at padding.
  """
  gap = jnp.where(mask > 0, jax.lax.stop_gradient(log_ratio), 0.0)
  if level == "sequence":
    gap = jnp.sum(gap, axis=-1, keepdims=True)
  weights = jnp.exp(gap)
  if method == "truncate":
    weights = jnp.minimum(weights, limit)
  else:
    weights = jnp.where(weights > limit, 0.0, weights)
  return weights * mask


def value_loss(
  values: Float[Array, "*rows"],
  targets: Float[Array, "*rows"],
  old_values: Float[Array, "*rows"] | None = None,
  *,
  clip: float = 0.0,
) -> Float[Array, "*rows"]:
  """Returns (Z - V)^2, without a factor 1/2, as in the paper.

  Args:
    values: V.
    targets: Z, without gradient.
    old_values: V before the update; read if there is a clip.
    clip: takes the larger of this loss and that of V clipped to at most this
      distance from the old value, as the code of PPO does. 0 is off.
  """
  targets = jax.lax.stop_gradient(targets)
  loss = (values - targets) ** 2
  if not clip:
    return loss
  near = old_values + jnp.clip(values - old_values, -clip, clip)
  return jnp.maximum(loss, (near - targets) ** 2)
