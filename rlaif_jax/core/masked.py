# SPDX-License-Identifier: Apache-2.0
"""Weighted sums: the only module that divides by a count.

A mean of means over unequal counts is wrong, so every loss and metric is a
`WeightedSum` until it is reported.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class WeightedSum:
  """A total and its weight; addition merges two of them."""

  total: jax.Array
  weight: jax.Array

  def __add__(self, other: "WeightedSum") -> "WeightedSum":
    return WeightedSum(self.total + other.total, self.weight + other.weight)

  def mean(self) -> jax.Array:
    """Returns total / weight, or 0 if the weight is 0. NaN totals stay NaN."""
    safe = jnp.where(self.weight == 0, 1.0, self.weight)
    return self.total / safe


def weighted_sum(values: jax.Array, weights: jax.Array) -> WeightedSum:
  """Sums `values * weights` in float32; entries of weight 0 are ignored.

  Args:
    values: any shape; may hold garbage or NaN where the weight is 0.
    weights: same shape as `values`.
  """
  weights = weights.astype(jnp.float32)
  kept = jnp.where(weights != 0, values.astype(jnp.float32), 0.0)
  return WeightedSum(jnp.sum(kept * weights), jnp.sum(weights))


def masked_mean(values: jax.Array, weights: jax.Array) -> jax.Array:
  """Returns the weighted mean."""
  return weighted_sum(values, weights).mean()
