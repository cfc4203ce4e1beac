# SPDX-License-Identifier: Apache-2.0
"""Rewards, returns and advantages against loops; nothing leaks from padding."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.ops import advantages

MASK = np.array([1.0, 1, 1, 0, 0])
GARBAGE = [np.nan, np.inf]


def shaped(score=2.0, mask=MASK, log_p=None, log_q=None, **options):
  log_p = np.array([-1.0, -2, -3, *GARBAGE]) if log_p is None else log_p
  log_q = np.array([-1.5, -1, -3, *GARBAGE]) if log_q is None else log_q
  settings = {"beta": 0.1, "kl_in_reward": True, **options}
  return np.asarray(
    advantages.shaped_rewards(
      jnp.float32(score),
      jnp.asarray(log_p, jnp.float32),
      jnp.asarray(log_q, jnp.float32),
      jnp.asarray(mask, jnp.float32),
      **settings,
    )
  )


def test_score_is_at_the_last_real_token():
  """Trap: the score added at the first pad is masked away."""
  expected = [-0.1 * 0.5, -0.1 * -1.0, 0.9 * 2.0, 0, 0]
  np.testing.assert_allclose(shaped(), expected, rtol=1e-6)


def test_kl_outside_the_reward_and_the_older_weight():
  np.testing.assert_allclose(
    shaped(kl_in_reward=False, weight_score_by_one_minus_beta=False),
    [0, 0, 2.0, 0, 0],
  )


def test_rewards_are_constants_for_the_policy():
  """Else the KL in the reward would be trained a second time, as a loss."""
  log_q, mask = jnp.array([-1.5, -1.0, -2.0]), jnp.ones(3)
  gradient = jax.grad(
    lambda p: advantages.shaped_rewards(
      jnp.float32(1.0), p, log_q, mask, beta=0.1, kl_in_reward=True
    ).sum()
  )(jnp.array([-1.0, -2.0, -3.0]))
  np.testing.assert_array_equal(gradient, np.zeros(3))


def test_a_lone_sample_has_no_others():
  with pytest.raises(ValueError, match="at least 2 samples"):
    advantages.leave_one_out(jnp.ones((3, 1)))


def test_an_empty_response_has_no_reward():
  np.testing.assert_array_equal(shaped(mask=np.zeros(5)), np.zeros(5))


def test_returns_against_a_loop():
  """Trap: padding leaks into returns."""
  rewards = np.array([0.5, -1.0, 2.0, *GARBAGE], np.float32)
  result = advantages.returns(
    jnp.asarray(rewards), jnp.asarray(MASK), gamma=0.9
  )
  expected, later = np.zeros(5), 0.0
  for t in (2, 1, 0):
    later = rewards[t] + 0.9 * later
    expected[t] = later
  np.testing.assert_allclose(result, expected, rtol=1e-6)


@pytest.mark.parametrize("gamma, lam", [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0)])
def test_gae_against_a_loop(gamma, lam):
  """Trap: a value at or after the end enters the last delta."""
  rewards = np.array([0.5, -1.0, 2.0, *GARBAGE], np.float32)
  values = np.array([0.2, 0.4, -0.3, 7.0, np.nan], np.float32)
  result = advantages.gae(
    jnp.asarray(rewards),
    jnp.asarray(values),
    jnp.asarray(MASK),
    gamma=gamma,
    lam=lam,
  )
  expected, later = np.zeros(5), 0.0
  for t in (2, 1, 0):
    following = values[t + 1] if t < 2 else 0.0
    later = rewards[t] + gamma * following - values[t] + gamma * lam * later
    expected[t] = later
  np.testing.assert_allclose(result, expected, rtol=1e-5)


def test_gae_at_lambda_one_is_return_minus_value():
  rewards = jnp.array([0.5, -1.0, 2.0, 0, 0])
  values = jnp.array([0.2, 0.4, -0.3, 0, 0])
  mask = jnp.asarray(MASK)
  result = advantages.gae(rewards, values, mask, gamma=1.0, lam=1.0)
  expected = advantages.returns(rewards, mask, gamma=1.0) - values
  np.testing.assert_allclose(result, expected * mask, rtol=1e-6)


def test_group_baselines_by_hand():
  scores = jnp.array([[1.0, 2.0, 6.0]])
  np.testing.assert_allclose(
    advantages.leave_one_out(scores), [[1 - 4, 2 - 3.5, 6 - 1.5]]
  )
  np.testing.assert_allclose(advantages.group_centred(scores), [[-2, -1, 3]])
  normal = advantages.group_normalised(scores, epsilon=0.0)
  np.testing.assert_allclose(normal.mean(), 0.0, atol=1e-6)
  # With N - 1, as in PyTorch.
  np.testing.assert_allclose(normal.std(ddof=1), 1.0, rtol=1e-6)
  equal = advantages.group_normalised(jnp.ones((1, 3)))
  np.testing.assert_array_equal(equal, np.zeros((1, 3)))


def test_reported_kl_is_the_trained_kl():
  """Trap: metrics use one estimator or temperature, the reward another."""
  log_p, log_q = np.array([-1.0, -2, -3]), np.array([-1.5, -1, -2.5])
  mask = np.ones(3)
  trained = shaped(0.0, mask, log_p, log_q).sum() / -0.1
  reported = np.sum(advantages.KL_ESTIMATORS["k1"](log_p, log_q) * mask)
  np.testing.assert_allclose(trained, reported, rtol=1e-5)


def test_whitening_reads_no_padding():
  values = jnp.array([[1.0, 3.0, jnp.nan], [8.0, jnp.nan, jnp.nan]])
  mask = jnp.array([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
  real = np.array([1.0, 3.0, 8.0])
  expected = (real - 4) / np.sqrt(13 + 1e-8)
  found = advantages.whitened(values, mask)
  np.testing.assert_allclose(found[mask > 0], expected, rtol=1e-5)
  np.testing.assert_array_equal(found[mask == 0], 0)


def test_k2_of_a_response_is_spread_over_its_tokens():
  log_p = jnp.array([[-1.0, -2.0, jnp.nan]])
  mask = jnp.array([[1.0, 1.0, 0.0]])
  found = advantages.kl_k2_response(log_p, jnp.zeros((1, 3)), mask)
  np.testing.assert_allclose(found, [[2.25, 2.25, 0.0]])
