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
from rlaif_jax.ops import sampling

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


def shaped(table, reference, kl_in_reward, beta=BETA):
  return jax.vmap(
    lambda s, p, q, m: advantages.shaped_rewards(
      s, p, q, m, beta=beta, kl_in_reward=kl_in_reward
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
    p, q = log_probs(t), log_probs(reference)
    return expected(advantages.kl_k2_response(p, q, MASK), weights)

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


def reinforce_gradient(table, weights, policy_log_probs, rewards, scale=1.0):
  """The expected REINFORCE gradient of samples with these probabilities."""

  def loss(t):
    terms = policy_gradient.reinforce(policy_log_probs(t), all_returns(rewards))
    return expected(scale * terms, weights)

  return -jax.grad(loss)(table)


def cut(table):
  """The two likeliest tokens of each state; a sampler with top_k = 2."""
  return jnp.maximum(sampling.filter_top_k(table, 2), -1e9)


def trained(sampler, beta, steps=2000):
  """Ascends the expected gradient of samples of `sampler(table)`."""
  reference = tables()[1]

  @jax.jit
  def step(_, table):
    rewards = shaped(table, reference, True, beta)
    weights = probability(sampler(table))
    return table + 0.5 * reinforce_gradient(table, weights, log_probs, rewards)

  return jax.lax.fori_loop(0, steps, step, reference)


def test_cut_samples_with_uncut_log_probs_end_elsewhere():
  """Why RLConfig refuses top_k and top_p."""
  reference, beta = tables()[1], 0.6
  optimum = probability(reference) * jnp.exp((1 - beta) / beta * SCORES)
  optimum /= jnp.sum(optimum)

  def kl_to_optimum(table):
    p = probability(table)
    return float(jnp.sum(p * (jnp.log(p) - jnp.log(optimum))))

  honest, dishonest = (trained(s, beta) for s in (lambda t: t, cut))
  assert kl_to_optimum(honest) < 1e-3
  assert kl_to_optimum(dishonest) > 0.1
  # What a run would report is the KL of no distribution.
  weights = probability(cut(dishonest))
  p, q = log_probs(dishonest), log_probs(reference)
  reported = float(expected(advantages.kl_k1(p, q), weights))
  assert abs(reported - float(sequence_kl(dishonest, reference))) > 0.05


def test_log_probs_of_the_cut_distribution_report_its_kl():
  """`ops.sampling.sample` returns these, and job `sample` reports them."""
  table, reference = tables()
  weights = probability(cut(table))
  real = (MASK > 0) & (weights > 0)[:, None]
  own = jnp.where(real, log_probs(cut(table)), 0.0)
  theirs = jnp.where(real, log_probs(reference), 0.0)
  reported = float(expected(own - theirs, weights))
  kept = weights > 0
  whole = jnp.log(weights[kept]) - jnp.log(probability(reference)[kept])
  exact = float(jnp.sum(weights[kept] * whole))
  assert reported == pytest.approx(exact, abs=1e-5)
  wrong = float(
    expected(jnp.where(real, log_probs(table), 0) - theirs, weights)
  )
  assert abs(wrong - exact) > 0.1


@pytest.mark.parametrize("method", ["truncate", "mask"])
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_weights_of_another_sampler_bring_the_gradient_nearer(level, method):
  table, reference = tables()
  noise = np.random.default_rng(5).normal(size=(3, 3))
  sampler = table + 0.5 * jnp.asarray(noise, jnp.float32)
  weights = probability(sampler)
  rewards = shaped(table, reference, True)
  exact = jax.grad(objective)(table, reference)

  def error(limit):
    scale = policy_gradient.sampler_weights(
      log_probs(table) - log_probs(sampler),
      MASK,
      method=method,
      level=level,
      limit=limit,
    )
    found = reinforce_gradient(table, weights, log_probs, rewards, scale)
    return float(jnp.linalg.norm(found - exact))

  plain = reinforce_gradient(table, weights, log_probs, rewards)
  assert error(10.0) < 0.9 * float(jnp.linalg.norm(plain - exact))
  if level == "sequence":
    # The product of a whole response's ratios leaves no bias.
    assert error(1e6) < 1e-5
