# SPDX-License-Identifier: Apache-2.0
"""Sums of parts by hand: weights, standardisation, clips, missing values."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.core import protocols
from rlaif_jax.reward import composite

A = np.array([[1.0, 2.0, 3.0], [10.0, 10.0, 10.0]])
B = np.array([[0.0, np.nan, 4.0], [2.0, 2.0, 2.0]])


def constant(values):
  def score(params, prompts, response, mask):
    del prompts, response, mask
    return jnp.asarray(values, jnp.float32) + params

  return score


def total(*parts, params=0.0):
  score = composite.composite_scorer(parts)
  found = score({p.name: params for p in parts}, None, None, None)
  assert isinstance(found, protocols.Scores)
  return found


def part(name="a", values=A, **options):
  return composite.ScoredPart(name=name, scorer=constant(values), **options)


def test_weights_shift_and_scale():
  found = total(
    part(weight=2.0, shift=1.0, scale=0.5), part("b", A + 1, weight=-1.0)
  )
  np.testing.assert_allclose(found.total, 2 * (A - 1) / 0.5 - (A + 1))
  np.testing.assert_allclose(found.parts["b"], A + 1)


def test_standardised_over_the_batch_or_the_group():
  batch = total(part(standardize="batch")).total
  np.testing.assert_allclose(batch, (A - A.mean()) / A.std(), rtol=1e-5)
  group = total(part(standardize="group")).total
  np.testing.assert_allclose(group[0], [-(1.5**0.5), 0, 1.5**0.5], rtol=1e-5)
  # Samples without a difference do not become noise.
  np.testing.assert_array_equal(group[1], 0)


def test_a_clip_comes_after_standardisation():
  found = total(part(standardize="group", clip=1.0, weight=3.0)).total
  np.testing.assert_allclose(found[0], [-3, 0, 3], atol=1e-5)


def test_a_missing_value_is_left_out_or_shows():
  left_out = total(part(), part("b", B, excludes=True))
  np.testing.assert_allclose(left_out.total, A + np.nan_to_num(B))
  np.testing.assert_array_equal(left_out.present["b"], ~np.isnan(B))
  standard = total(part("b", B, excludes=True, standardize="batch")).total
  real = B[~np.isnan(B)]
  np.testing.assert_allclose(
    standard[0], [-real.mean() / real.std(), 0, 2 / real.std()], rtol=1e-5
  )
  shown = total(part("b", B)).total
  np.testing.assert_array_equal(np.isnan(shown), np.isnan(B))


def test_zero_is_a_score():
  found = total(part("a", 0 * A, excludes=True))
  assert bool(found.present["a"].all())


def test_parts_on_the_device_stay_there():
  score = composite.composite_scorer([part(), part("b", B, excludes=True)])
  params = {"a": jnp.zeros(()), "b": jnp.zeros(())}
  score(params, None, None, None)
  with jax.transfer_guard_device_to_host("disallow"):
    found = score(params, None, None, None)
  assert found.total.shape == (2, 3)


@pytest.mark.parametrize("names", [(), ("a", "a"), ("a", "")])
def test_each_part_has_a_name_of_its_own(names):
  with pytest.raises(ValueError, match="parts|names"):
    composite.composite_scorer([part(name) for name in names])
