# SPDX-License-Identifier: Apache-2.0
"""Searching and training with a proxy that is gold itself, in effect."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.experiments import toy_policies
from rlaif_jax.rl import algorithms
from tests import tiny_toy

RLOO = algorithms.RLConfig(algorithm="rloo", samples_per_prompt=4, beta=0.0)


@pytest.fixture(scope="module")
def policies():
  return tiny_toy.policies()


def count_first_word(params, prompts, response, mask):
  """A reward by definition: the number of times the first word occurs."""
  del params, prompts
  return jnp.sum((response == 4) * mask, axis=-1)


WORDS = toy_policies.ToyReward(count_first_word, None)


def test_best_of_n_by_gold_itself_is_the_best_of_gold(policies):
  data = tiny_toy.data()
  _, samples, gold = policies.search_samples(data)
  assert gold.shape == (4, 16)

  rows = policies.best_of_n(data, toy_policies.gold_reward(data))
  assert [row["n"] for row in rows] == [1, 4, 16]
  np.testing.assert_allclose(rows[0]["gold"], gold.mean(), rtol=1e-6)
  np.testing.assert_allclose(rows[-1]["gold"], gold.max(axis=1).mean())
  assert rows[1]["gold"] == rows[1]["proxy"]
  np.testing.assert_allclose(
    rows[0]["tokens"], samples.mask.sum(axis=1).mean(), rtol=1e-6
  )


def test_training_raises_the_proxy_and_moves_away(policies):
  data = tiny_toy.data()
  rows = policies.reinforce(data, WORDS, RLOO)
  assert [row["step"] for row in rows] == tiny_toy.TRAIN.times()
  assert abs(rows[0]["kl"]) < 1e-4 < rows[-1]["kl"]
  assert rows[-1]["proxy"] > rows[0]["proxy"] + 0.2
  # The first policy is left as it was.
  again = policies.measure(data, data.policy, WORDS)
  assert again["gold"] == rows[0]["gold"]


def test_a_kl_penalty_keeps_it_near(policies):
  data = tiny_toy.data()
  strict = algorithms.RLConfig(algorithm="rloo", samples_per_prompt=4, beta=0.9)
  free, held = (
    policies.reinforce(data, WORDS, rl)[-1] for rl in (RLOO, strict)
  )
  assert held["kl"] < 0.5 * free["kl"]


def test_measurements_are_dense_at_the_start_and_end_at_the_end():
  times = tiny_toy.TRAIN.times()
  assert times == [0, 2, 6]


@pytest.mark.parametrize(
  "algorithm, minibatches", [("reinforce", 1), ("ppo", 3)]
)
def test_a_value_network_learns_beside_the_policy(
  policies, algorithm, minibatches
):
  """Gold is the reward, and the proxy is only reported."""
  data = tiny_toy.data()
  rl = algorithms.RLConfig(
    algorithm=algorithm,
    samples_per_prompt=4,
    beta=0.0,
    minibatches=minibatches,
  )
  rows = policies.reinforce(
    data, toy_policies.gold_reward(data), rl, proxy=WORDS
  )
  # PPO measures when a rollout's three updates are done.
  assert [row["step"] for row in rows] == ([0, 2, 6], [0, 3, 6])[
    minibatches > 1
  ]
  assert rows[-1]["gold"] > rows[0]["gold"] + 0.1
  assert rows[-1]["win_rate"] > rows[0]["win_rate"]
  # A count of words is no gold.
  assert 0 <= rows[0]["proxy"] <= 4


def test_the_value_network_begins_with_the_policys_trunk(policies):
  data = tiny_toy.data()
  params = policies.start(data, algorithms.RLConfig(algorithm="ppo"))
  trunk = params["value"]["decoder"]
  assert set(params) == {"policy", "value"} and set(trunk) <= set(data.policy)
  for name, tree in trunk.items():
    jax.tree.map(np.testing.assert_array_equal, tree, data.policy[name])


def test_gold_as_a_scorer_reads_each_prompt_for_all_of_its_samples(policies):
  data = tiny_toy.data()
  prompts, samples = data.reference
  reward = toy_policies.gold_reward(data)
  expected = data.gold(prompts, samples)
  found = reward(prompts, samples.response[:, None], samples.mask[:, None])
  np.testing.assert_array_equal(found[:, 0], expected)
  # Rows 0 and 2 have one prompt, and so do 1 and 3.
  order = np.array([[0, 2], [1, 3]])
  part = jax.tree.map(lambda x: x[:2], prompts)
  found = reward(part, samples.response[order], samples.mask[order])
  np.testing.assert_array_equal(found, expected[order])


def test_what_does_not_divide_is_named(policies):
  rl = dataclasses.replace(RLOO, algorithm="ppo", minibatches=4)
  with pytest.raises(ValueError, match="multiple of the 4 updates"):
    policies.reinforce(tiny_toy.data(), WORDS, rl)
  with pytest.raises(ValueError, match="needs n samples"):
    toy_policies.ToySearchConfig(samples=4, sizes=(1, 8))
