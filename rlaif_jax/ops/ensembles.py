# SPDX-License-Identifier: Apache-2.0
"""Aggregates of the rewards of an ensemble."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

AGGREGATES = ("mean", "lcb", "wco", "uwo")


def aggregate(
  rewards: Float[Array, " k *rows"], kind: str, coefficient: float = 0.0
) -> Float[Array, "*rows"]:
  """Combines the rewards of k members into one: [k, ...] -> [...].

      mean  the mean
      lcb   mean - c std   (arXiv:2401.16635, section 4; UP-RLHF's eq. 14)
      wco   the worst      (arXiv:2310.02743)
      uwo   mean - c var   (arXiv:2310.02743, eq. 3)

  Variance and standard deviation are those of the members themselves (1 / k).
  Preferences leave a reward's zero open, so members must be in one unit first:
  see `standardize`.

  Args:
    rewards: [k, ...].
    kind: one of AGGREGATES.
    coefficient: c; of a deviation for lcb, of a variance for uwo.

  Raises:
    ValueError: no such kind.
  """
  rewards = rewards.astype(jnp.float32)
  mean = jnp.mean(rewards, axis=0)
  if kind == "mean":
    return mean
  if kind == "lcb":
    return mean - coefficient * jnp.std(rewards, axis=0)
  if kind == "wco":
    return jnp.min(rewards, axis=0)
  if kind == "uwo":
    return mean - coefficient * jnp.var(rewards, axis=0)
  raise ValueError(f"aggregate is {kind!r}; use one of {AGGREGATES}")


def standardize(
  rewards: Float[Array, " k *rows"],
  shift: Float[Array, " k"],
  scale: Float[Array, " k"],
) -> Float[Array, " k *rows"]:
  """Returns (reward - shift) / scale of each member: [k, ...], [k], [k]."""
  shape = (-1,) + (1,) * (rewards.ndim - 1)
  return (rewards - shift.reshape(shape)) / scale.reshape(shape)


def nuclear_ratio(stack: Float[Array, "n d"]) -> Float[Array, ""]:
  """Returns the sum of singular values over their root sum of squares.

  UP-RLHF's measure of the diversity of the members' adapters (arXiv:2401.00243,
  eq. 12): 1 if all rows are multiples of one, sqrt(n) if they are orthogonal
  with equal norms. Zero rows give 0 with slope 0, and
  singular values below a thousandth of the whole count as zero.
  """
  # By the Gram matrix, which is small: singular values are the roots of its
  # eigenvalues, and a root needs a floor to have a slope.
  stack = stack.astype(jnp.float32)
  if stack.shape[0] > stack.shape[1]:
    stack = stack.T
  gram = stack @ stack.T
  size = jnp.trace(gram)
  values = jnp.linalg.eigvalsh(gram / jnp.where(size > 0, size, 1.0))
  roots = jnp.sqrt(jnp.maximum(values, 1e-6))
  return jnp.sum(jnp.where(values > 1e-6, roots, 0.0))
