# SPDX-License-Identifier: Apache-2.0
"""Sums with their weights. The only place that divides by a count.

A mean of means over unequal counts is wrong, so every loss and metric travels
as `WeightedSum` and is divided once, by whoever reports it.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class WeightedSum:
  """A total and the weight behind it; merging is addition."""

  total: jax.Array
  weight: jax.Array

  def __add__(self, other: "WeightedSum") -> "WeightedSum":
    return WeightedSum(self.total + other.total, self.weight + other.weight)

  def mean(self) -> jax.Array:
    """total / weight, and 0 where nothing was counted. NaN totals stay NaN."""
    safe = jnp.where(self.weight == 0, 1.0, self.weight)
    return self.total / safe


def weighted_sum(values: jax.Array, weights: jax.Array) -> WeightedSum:
  """Sums `values * weights` in float32; what has weight 0 is not read.

  Args:
    values: any shape; may hold garbage or NaN where the weight is 0.
    weights: same shape as `values`.
  """
  weights = weights.astype(jnp.float32)
  kept = jnp.where(weights != 0, values.astype(jnp.float32), 0.0)
  return WeightedSum(jnp.sum(kept * weights), jnp.sum(weights))


def masked_mean(values: jax.Array, weights: jax.Array) -> jax.Array:
  """Mean over the entries that have weight."""
  return weighted_sum(values, weights).mean()
