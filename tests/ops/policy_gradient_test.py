# SPDX-License-Identifier: Apache-2.0
"""Terms and gradients of the policy-gradient losses by hand."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

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
  terms = policy_gradient.ppo_clip(new, old, advantages, clip=0.2)
  np.testing.assert_allclose(terms, [-1.2, 1.5, -0.5, 0.8], rtol=1e-6)
  fraction = policy_gradient.clip_fraction(
    jnp.log(jnp.array([1.1, 1.3, 0.7])), jnp.zeros(3), clip=0.2
  )
  np.testing.assert_array_equal(fraction, [0, 1, 1])


def test_ppo_moves_neither_the_sampling_policy_nor_the_advantage():
  log_probs, advantages = jnp.array([-1.0, -2.0]), jnp.array([3.0, -0.5])
  gradients = jax.grad(
    lambda p, q, a: policy_gradient.ppo_clip(p, q, a, clip=0.2).sum(),
    (0, 1, 2),
  )(log_probs, log_probs, advantages)
  assert np.abs(gradients[0]).min() > 0
  np.testing.assert_array_equal(gradients[1], [0, 0])
  np.testing.assert_array_equal(gradients[2], [0, 0])


def test_ppo_at_ratio_one_has_the_reinforce_gradient():
  log_probs, advantages = jnp.array([-1.0, -2.0]), jnp.array([3.0, -0.5])
  ppo = jax.grad(
    lambda p: policy_gradient.ppo_clip(p, log_probs, advantages, clip=0.2).sum()
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
