# SPDX-License-Identifier: Apache-2.0
"""Sums with weights: merged and divided once, garbage never read."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from rlaif_jax.core import masked


def test_merging_is_the_mean_over_all_tokens():
  """Trap: the mean of microbatch means over unequal counts."""
  a = masked.weighted_sum(jnp.array([1.0, 2.0, 3.0]), jnp.ones(3))
  b = masked.weighted_sum(jnp.array([9.0]), jnp.ones(1))
  assert float((a + b).mean()) == 15 / 4
  assert float((a.mean() + b.mean()) / 2) != 15 / 4


def test_what_has_no_weight_is_not_read():
  values = jnp.array([1.0, jnp.nan, jnp.inf])
  weights = jnp.array([2.0, 0.0, 0.0])
  assert float(masked.masked_mean(values, weights)) == 1.0
  gradient = jax.grad(lambda v: masked.masked_mean(v, weights))(values)
  np.testing.assert_array_equal(gradient, [1, 0, 0])


def test_nothing_counted_is_zero_and_nan_stays():
  assert float(masked.masked_mean(jnp.ones(2), jnp.zeros(2))) == 0.0
  assert np.isnan(masked.masked_mean(jnp.array([jnp.nan]), jnp.ones(1)))
