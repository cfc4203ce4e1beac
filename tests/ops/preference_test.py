# SPDX-License-Identifier: Apache-2.0
"""The pair loss from its definition and its symmetries."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.ops import pair_accuracy
from rlaif_jax.ops import preference


@pytest.mark.parametrize("label", [0.0, 0.25, 0.5, 1.0])
def test_it_is_the_cross_entropy_of_a_softmax_over_two_rewards(label):
  first, second = 0.7, -0.4
  total = math.exp(first) + math.exp(second)
  expected = -label * math.log(math.exp(first) / total) - (
    1 - label
  ) * math.log(math.exp(second) / total)
  loss = preference.pair_logistic(
    jnp.array([first - second]), jnp.array([label])
  )
  np.testing.assert_allclose(loss, [expected], rtol=1e-6)


def test_swapping_a_pair_sends_p_to_one_minus_p_and_keeps_the_loss():
  margin, label = jnp.array([0.3, -2.0]), jnp.array([0.9, 0.2])
  np.testing.assert_allclose(
    preference.pair_logistic(margin, label),
    preference.pair_logistic(-margin, 1 - label),
    rtol=1e-6,
  )
  np.testing.assert_array_equal(
    pair_accuracy.correct(margin, label),
    pair_accuracy.correct(-margin, 1 - label),
  )


def test_large_margins_stay_finite():
  loss = preference.pair_logistic(jnp.array([200.0]), jnp.array([0.0]))
  np.testing.assert_allclose(loss, [200.0])


def test_low_precision_margins_are_lifted_first():
  loss = preference.pair_logistic(
    jnp.array([3.0], jnp.bfloat16), jnp.array([1.0], jnp.bfloat16)
  )
  assert loss.dtype == jnp.float32
  np.testing.assert_allclose(loss, [math.log1p(math.exp(-3.0))], rtol=1e-6)


def test_smoothing_moves_the_label_towards_a_half():
  smooth = preference.pair_logistic(
    jnp.array([1.0]), jnp.array([1.0]), label_smoothing=0.2
  )
  plain = preference.pair_logistic(jnp.array([1.0]), jnp.array([0.9]))
  np.testing.assert_allclose(smooth, plain, rtol=1e-6)


def test_the_squared_loss_is_least_where_the_label_says():
  label, target = 0.8, 5.0
  margins = jnp.linspace(-6, 6, 1201)
  loss = preference.pair_squared(
    margins, jnp.full_like(margins, label), target=target
  )
  best = float(margins[jnp.argmin(loss)])
  np.testing.assert_allclose(best, (2 * label - 1) * target, atol=1e-5)
  np.testing.assert_allclose(
    loss[0], label * 11.0**2 + (1 - label) * 1.0, rtol=1e-5
  )


def test_accuracy_counts_ties_half():
  margin = jnp.array([1.0, -1.0, 0.0, 1.0])
  label = jnp.array([1.0, 1.0, 1.0, 0.5])
  np.testing.assert_array_equal(
    pair_accuracy.correct(margin, label), [1, 0, 0.5, 0.5]
  )


@pytest.mark.parametrize("label", [0.0, 0.3, 1.0])
def test_hinge_is_what_the_worse_one_leads_by(label):
  margin = jnp.array([0.7, -0.4])
  expected = [(1 - label) * 0.7, label * 0.4]
  np.testing.assert_allclose(
    preference.pair_hinge(margin, jnp.full(2, label)), expected, rtol=1e-6
  )


def test_kto_by_hand_and_its_point_has_no_slope():
  reward, point = jnp.array([0.5, 0.5]), jnp.array(0.2)
  lower = 1 / (1 + math.exp(0.3))
  found = preference.kto(reward, jnp.array([1.0, 0.0]), point)
  np.testing.assert_allclose(found, [lower, 1 - lower], rtol=1e-6)
  slope = jax.grad(
    lambda z: preference.kto(reward, jnp.array([1.0, 0.0]), z)[0]
  )
  assert float(slope(point)) == 0.0


def test_gap_weights_have_mean_one_and_no_scale():
  margin = jnp.array([2.0, -1.0, 1.0, 0.0, 1.0])
  found = preference.margin_weights(margin, quantile=1.0)
  np.testing.assert_allclose(found, [2.5, 0, 1.25, 0, 1.25], rtol=1e-6)
  np.testing.assert_allclose(
    preference.margin_weights(100 * margin, quantile=1.0), found, rtol=1e-6
  )


def test_a_single_huge_gap_does_not_rule():
  margin = jnp.array([1000.0] + [1.0] * 99)
  found = preference.margin_weights(margin)
  np.testing.assert_allclose(found.mean(), 1.0, rtol=1e-6)
  np.testing.assert_allclose(found[0], found[1], rtol=1e-5)


def test_gaps_that_all_disagree_leave_plain_weights():
  found = preference.margin_weights(jnp.array([-1.0, -3.0]))
  np.testing.assert_array_equal(found, [1.0, 1.0])
  # One positive margin, which the quantile alone would cut to nothing.
  found = preference.margin_weights(jnp.array([-1.0] * 99 + [3.0]))
  np.testing.assert_allclose(found[-1], 100.0)
