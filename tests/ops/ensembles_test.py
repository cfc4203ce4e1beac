# SPDX-License-Identifier: Apache-2.0
"""Aggregates of three members by hand; the nuclear ratio at its bounds."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.ops import ensembles

REWARDS = jnp.array([[1.0, 5.0], [2.0, 5.0], [6.0, 5.0]])
# Mean 3, variance ((2)^2 + 1 + 9) / 3 = 14 / 3; the second response is agreed.
VARIANCE = 14 / 3


@pytest.mark.parametrize(
  "kind, first",
  [
    ("mean", 3.0),
    ("wco", 1.0),
    ("lcb", 3.0 - 0.5 * math.sqrt(VARIANCE)),
    ("uwo", 3.0 - 0.5 * VARIANCE),
  ],
)
def test_aggregates_by_hand(kind, first):
  result = ensembles.aggregate(REWARDS, kind, 0.5)
  np.testing.assert_allclose(result, [first, 5.0], rtol=1e-6)


def test_one_member_is_itself_under_every_aggregate():
  for kind in ensembles.AGGREGATES:
    np.testing.assert_array_equal(
      ensembles.aggregate(REWARDS[:1], kind, 2.0), REWARDS[0]
    )


def test_an_unknown_aggregate_is_named():
  with pytest.raises(ValueError, match="median"):
    ensembles.aggregate(REWARDS, "median")


def test_units_take_out_what_preferences_leave_open():
  """A shift and a scale of one member change nothing once in one unit."""
  generator = np.random.default_rng(0)
  raw = jnp.asarray(generator.normal(size=(3, 50)), jnp.float32)
  other = raw.at[1].multiply(7.0).at[1].add(-30.0)

  def worst(rewards):
    unit = ensembles.standardize(
      rewards, jnp.mean(rewards, axis=1), jnp.std(rewards, axis=1)
    )
    return ensembles.aggregate(unit, "wco")

  np.testing.assert_allclose(worst(raw), worst(other), atol=1e-5)
  assert np.abs(ensembles.aggregate(other, "wco") - raw.min(axis=0)).max() > 1


def test_nuclear_ratio_is_that_of_singular_values():
  stack = np.random.default_rng(0).normal(size=(6, 20)).astype(np.float32)
  s = np.linalg.svd(stack, compute_uv=False)
  expected = s.sum() / math.sqrt((s**2).sum())
  np.testing.assert_allclose(
    ensembles.nuclear_ratio(stack), expected, rtol=1e-5
  )
  np.testing.assert_allclose(
    ensembles.nuclear_ratio(stack.T), expected, rtol=1e-5
  )


def test_nuclear_ratio_at_its_bounds():
  """N = 3 members of rank 2: sqrt(6) if all differ, sqrt(2) if all agree."""
  rows = jnp.eye(6, 9)
  np.testing.assert_allclose(
    ensembles.nuclear_ratio(rows), math.sqrt(6), rtol=1e-5
  )
  same = jnp.tile(jnp.eye(2, 9), (3, 1))
  np.testing.assert_allclose(
    ensembles.nuclear_ratio(same), math.sqrt(2), rtol=1e-4
  )


@pytest.mark.parametrize("kind", ["random", "deficient", "zero"])
def test_nuclear_ratio_has_a_finite_slope(kind):
  rows = np.random.default_rng(0).normal(size=(6, 9)).astype(np.float32)
  stack = {"random": rows, "deficient": np.tile(rows[:2], (3, 1))}
  stack = stack.get(kind, np.zeros_like(rows))
  slope = jax.grad(ensembles.nuclear_ratio)(jnp.asarray(stack))
  assert bool(jnp.isfinite(slope).all())
  if kind == "random":
    step = 1e-2 * slope
    assert ensembles.nuclear_ratio(stack + step) > ensembles.nuclear_ratio(
      stack
    )
