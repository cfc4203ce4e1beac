# SPDX-License-Identifier: Apache-2.0
"""A world of three tokens and two-token responses, summed exactly.

Token 0 ends a response. The seven responses are 0, 1 0, 1 1, 1 2, 2 0, 2 1,
2 2. The policy is a table of logits, one row per state (start, after 1,
after 2). Expectations are sums over the seven; nothing is sampled.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.ops import advantages
from rlaif_jax.ops import policy_gradient
from rlaif_jax.ops import preference

RESPONSES = ((0,), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2))
TOKENS = jnp.array([[r[0], r[1] if len(r) > 1 else 0] for r in RESPONSES])
MASK = jnp.array([[1.0, float(len(r) > 1)] for r in RESPONSES])
# State of each token: 0 at the start, then the first token's own number.
STATES = jnp.stack([jnp.zeros(7, jnp.int32), TOKENS[:, 0]], axis=1)
SCORES = jnp.array([0.3, -1.0, 2.0, 0.1, -0.4, 0.9, -2.2])
BETA = 0.2


def tables(seed=0):
  generator = np.random.default_rng(seed)
  policy, reference = generator.normal(size=(2, 3, 3))
  return jnp.asarray(policy, jnp.float32), jnp.asarray(reference, jnp.float32)


def log_probs(table):
  """[7, 2] log-probs of the tokens of all responses."""
  return jax.nn.log_softmax(table, axis=-1)[STATES, TOKENS]


def probability(table):
  """[7] probabilities of the responses; they sum to one."""
  return jnp.exp(jnp.sum(log_probs(table) * MASK, axis=1))


def sequence_kl(table, reference):
  gap = jnp.sum((log_probs(table) - log_probs(reference)) * MASK, axis=1)
  return jnp.sum(probability(table) * gap)


def objective(table, reference):
  """(1 - beta) E[r] - beta KL (paper, appendix A.3), exactly."""
  reward = jnp.sum(probability(table) * SCORES)
  return (1 - BETA) * reward - BETA * sequence_kl(table, reference)


def shaped(table, reference, kl_in_reward):
  return jax.vmap(
    lambda s, p, q, m: advantages.shaped_rewards(
      s, p, q, m, beta=BETA, kl_in_reward=kl_in_reward
    )
  )(SCORES, log_probs(table), log_probs(reference), MASK)


def all_returns(rewards):
  return jax.vmap(lambda r, m: advantages.returns(r, m, gamma=1.0))(
    rewards, MASK
  )


def expected(per_token, weights):
  return jnp.sum(weights * jnp.sum(per_token * MASK, axis=1))


def test_the_seven_responses_are_all():
  assert abs(float(probability(tables()[0]).sum()) - 1.0) < 1e-6


@pytest.mark.parametrize("baseline", [0.0, 1.7])
def test_reinforce_with_kl_in_the_reward_is_the_exact_gradient(baseline):
  table, reference = tables()
  weights = probability(table)
  state_baseline = baseline * jnp.array([0.5, -1.0, 2.0])[STATES]

  def loss(t):
    rewards = shaped(table, reference, True)
    advantage = all_returns(rewards) - state_baseline
    return expected(policy_gradient.reinforce(log_probs(t), advantage), weights)

  exact = jax.grad(objective)(table, reference)
  np.testing.assert_allclose(-jax.grad(loss)(table), exact, atol=1e-6)


def test_advantage_from_rewards_instead_of_returns_is_another_gradient():
  """Trap: the first token would never hear of the terminal score."""
  table, reference = tables()
  weights = probability(table)

  def loss(t):
    rewards = shaped(table, reference, True)
    return expected(policy_gradient.reinforce(log_probs(t), rewards), weights)

  exact = jax.grad(objective)(table, reference)
  assert np.abs(-jax.grad(loss)(table) - exact).max() > 1e-2


@pytest.mark.parametrize("name", ["k1", "k2", "k3"])
def test_kl_in_the_loss(name):
  """k2 has the right gradient per token; k1 has none; k3 has another one."""
  table, reference = tables()
  weights = probability(table)

  def loss(t):
    rewards = shaped(table, reference, False)
    terms = policy_gradient.reinforce(log_probs(t), all_returns(rewards))
    estimate = advantages.KL_ESTIMATORS[name]
    terms += BETA * estimate(log_probs(t), log_probs(reference))
    return expected(terms, weights)

  def reward_only(t):
    return (1 - BETA) * jnp.sum(probability(t) * SCORES)

  def token_kl(t):
    """KL per state, with the visits of the sampling policy held fixed."""
    p, q = jax.nn.log_softmax(t), jax.nn.log_softmax(reference)
    per_state = jnp.sum(jnp.exp(p) * (p - q), axis=-1)
    return jnp.sum(weights * jnp.sum(per_state[STATES] * MASK, axis=1))

  gradient = -jax.grad(loss)(table)
  right = jax.grad(reward_only)(table) - BETA * jax.grad(token_kl)(table)
  error = np.abs(gradient - right).max()
  if name == "k2":
    assert error < 1e-6
  else:
    assert error > 1e-3
  if name == "k1":
    np.testing.assert_allclose(
      gradient, jax.grad(reward_only)(table), atol=1e-6
    )


def test_k3_in_the_loss_is_the_other_direction():
  """Its gradient is that of KL(reference || policy) at visited states."""
  table, reference = tables()
  weights = probability(table)

  def loss(t):
    terms = advantages.kl_k3(log_probs(t), log_probs(reference))
    return expected(terms, weights)

  def other_direction(t):
    p, q = jax.nn.log_softmax(t), jax.nn.log_softmax(reference)
    per_state = jnp.sum(jnp.exp(q) * (q - p), axis=-1)
    return expected(per_state[STATES], weights)

  exact = jax.grad(other_direction)(table)
  np.testing.assert_allclose(jax.grad(loss)(table), exact, atol=1e-6)


def test_k2_of_whole_responses_has_the_gradient_of_the_objective():
  """Per-token terms omit the effect of a token on later states."""
  table, reference = tables()
  weights = probability(table)

  def whole(t):
    p, q = (jnp.sum(log_probs(x) * MASK, axis=1) for x in (t, reference))
    return jnp.sum(weights * advantages.kl_k2(p, q))

  def single(t):
    terms = advantages.kl_k2(log_probs(t), log_probs(reference))
    return expected(terms, weights)

  exact = jax.grad(sequence_kl)(table, reference)
  np.testing.assert_allclose(jax.grad(whole)(table), exact, atol=1e-6)
  assert np.abs(jax.grad(single)(table) - exact).max() > 1e-2


def test_kl_estimators_in_expectation():
  table, reference = tables()
  weights = probability(table)
  p, q = log_probs(table), log_probs(reference)
  exact = float(sequence_kl(table, reference))
  values = {
    name: float(expected(estimate(p, q), weights))
    for name, estimate in advantages.KL_ESTIMATORS.items()
  }
  assert abs(values["k1"] - exact) < 1e-6
  assert abs(values["k3"] - exact) < 1e-6
  assert abs(values["k2"] - exact) > 1e-3
  assert float(advantages.kl_k3(p, q).min()) >= 0.0


def test_rloo_over_all_pairs_of_samples_is_the_exact_gradient():
  table, reference = tables()
  weights = probability(table)
  totals = jnp.sum(shaped(table, reference, True) * MASK, axis=1)
  groups = jnp.stack(jnp.meshgrid(totals, totals, indexing="ij"), axis=-1)
  advantage = advantages.leave_one_out(groups.reshape(49, 2))
  first = advantage[:, 0].reshape(7, 7)

  def loss(t):
    sums = jnp.sum(log_probs(t) * MASK, axis=1)
    pair_weights = weights[:, None] * weights[None, :]
    return -jnp.sum(pair_weights * first * sums[:, None])

  exact = jax.grad(objective)(table, reference)
  np.testing.assert_allclose(-jax.grad(loss)(table), exact, atol=1e-6)


def test_expected_soft_label_loss_is_least_at_the_labels_log_odds():
  """Softmax over two rewards against p: by hand, and its minimum."""
  p, margin = 0.8, 0.37
  by_hand = -p * np.log(1 / (1 + np.exp(-margin))) - (1 - p) * np.log(
    1 / (1 + np.exp(margin))
  )
  loss = preference.pair_logistic(jnp.array([margin]), jnp.array([p]))
  np.testing.assert_allclose(loss[0], by_hand, rtol=1e-6)
  best = jnp.array([np.log(p / (1 - p))])
  slope = jax.grad(lambda m: preference.pair_logistic(m, jnp.array([p])).sum())(
    best
  )
  np.testing.assert_allclose(slope, 0.0, atol=1e-6)
