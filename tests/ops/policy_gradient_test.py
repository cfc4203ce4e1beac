# SPDX-License-Identifier: Apache-2.0
"""Terms and gradients of the policy-gradient losses by hand."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.ops import policy_gradient


def test_reinforce_gradient_leaves_the_advantage_alone():
  log_probs, advantages = jnp.array([-1.0, -2.0]), jnp.array([3.0, -0.5])
  by_policy, by_advantage = jax.grad(
    lambda p, a: policy_gradient.reinforce(p, a).sum(), (0, 1)
  )(log_probs, advantages)
  np.testing.assert_allclose(by_policy, [-3.0, 0.5])
  np.testing.assert_array_equal(by_advantage, [0, 0])


def test_ppo_clips_by_hand():
  old = jnp.zeros(4)
  new = jnp.log(jnp.array([1.5, 1.5, 0.5, 0.5]))
  advantages = jnp.array([1.0, -1.0, 1.0, -1.0])
  ratio = policy_gradient.log_ratios(new, old, jnp.ones(4), level="token")
  terms = policy_gradient.ppo_clip(ratio, advantages, low=0.2, high=0.2)
  np.testing.assert_allclose(terms, [-1.2, 1.5, -0.5, 0.8], rtol=1e-6)
  higher = policy_gradient.ppo_clip(ratio, advantages, low=0.2, high=0.4)
  np.testing.assert_allclose(higher, [-1.4, 1.5, -0.5, 0.8], rtol=1e-6)
  dual = policy_gradient.ppo_clip(
    ratio, advantages, low=0.2, high=0.2, dual=1.25
  )
  np.testing.assert_allclose(dual, [-1.2, 1.25, -0.5, 0.8], rtol=1e-6)
  fraction = policy_gradient.clip_fraction(
    jnp.log(jnp.array([1.1, 1.3, 0.7])), low=0.2, high=0.4
  )
  np.testing.assert_array_equal(fraction, [0, 0, 1])


def test_a_sequence_has_the_mean_log_ratio_of_its_tokens():
  new = jnp.log(jnp.array([[2.0, 0.5, 8.0, jnp.nan]]))
  mask = jnp.array([[1.0, 1.0, 1.0, 0.0]])
  old = jnp.zeros((1, 4))
  ratio = policy_gradient.log_ratios(new, old, mask, level="sequence")
  np.testing.assert_allclose(jnp.exp(ratio), [[2, 2, 2, 1]], rtol=1e-5)
  slope = jax.grad(
    lambda x: policy_gradient.log_ratios(x, old, mask, level="sequence").sum()
  )(new)
  np.testing.assert_allclose(slope, [[1, 1, 1, 0]], rtol=1e-6)


@pytest.mark.parametrize(
  "method, level, expected",
  [
    ("truncate", "token", [2, 2, 0.25, 0]),
    ("mask", "token", [0, 2, 0.25, 0]),
    ("truncate", "sequence", [2, 2, 2, 0]),
    ("mask", "sequence", [0, 0, 0, 0]),
  ],
)
def test_weights_of_another_sampler_by_hand(method, level, expected):
  gap = jnp.log(jnp.array([[6.0, 2.0, 0.25, 9.0]]))  # Their product is 3.
  found = policy_gradient.sampler_weights(
    gap,
    jnp.array([[1.0, 1.0, 1.0, 0.0]]),
    method=method,
    level=level,
    limit=2.0 + 1e-6,
  )
  np.testing.assert_allclose(found[0], expected, rtol=1e-5)


def test_ppo_moves_neither_the_sampling_policy_nor_the_advantage():
  log_probs, advantages = jnp.array([-1.0, -2.0]), jnp.array([3.0, -0.5])

  def total(p, q, a):
    ratio = policy_gradient.log_ratios(p, q, jnp.ones(2), level="token")
    return policy_gradient.ppo_clip(ratio, a, low=0.2, high=0.2).sum()

  gradients = jax.grad(total, (0, 1, 2))(log_probs, log_probs, advantages)
  assert np.abs(gradients[0]).min() > 0
  np.testing.assert_array_equal(gradients[1], [0, 0])
  np.testing.assert_array_equal(gradients[2], [0, 0])


def test_ppo_at_ratio_one_has_the_reinforce_gradient():
  log_probs, advantages = jnp.array([-1.0, -2.0]), jnp.array([3.0, -0.5])
  ppo = jax.grad(
    lambda p: policy_gradient.ppo_clip(
      p - log_probs, advantages, low=0.2, high=0.2
    ).sum()
  )(log_probs)
  plain = jax.grad(lambda p: policy_gradient.reinforce(p, advantages).sum())(
    log_probs
  )
  np.testing.assert_allclose(ppo, plain)


def test_value_loss_has_no_half_and_does_not_move_its_target():
  values, targets = jnp.array([1.0]), jnp.array([3.0])
  np.testing.assert_allclose(policy_gradient.value_loss(values, targets), [4.0])
  by_value, by_target = jax.grad(
    lambda v, z: policy_gradient.value_loss(v, z).sum(), (0, 1)
  )(values, targets)
  assert math.isclose(float(by_value[0]), -4.0)
  assert float(by_target[0]) == 0.0


def test_a_value_gains_nothing_beyond_its_clip():
  values = jnp.array([1.5, 0.9, -2.0])
  terms = policy_gradient.value_loss(
    values, jnp.array([2.0, 2.0, 2.0]), jnp.ones(3), clip=0.2
  )
  np.testing.assert_allclose(terms, [0.8**2, 1.1**2, 16.0], rtol=1e-6)
