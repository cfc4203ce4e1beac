# SPDX-License-Identifier: Apache-2.0
"""Pure functions over explicit state: they learn, and keep what they were
given."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlaif_jax.api import loading
from rlaif_jax.api import policy_gradient as api
from rlaif_jax.core import compute
from rlaif_jax.core import lora_config
from rlaif_jax.engine import decode


@pytest.fixture(scope="module")
def policy(world):
  return loading.load(world / "sft")


@jax.jit
def low(prompts, response, mask):
  """A reward that a policy learns in a few steps: tokens of small numbers."""
  del prompts
  return jnp.sum((response < 160) * mask, axis=-1) / jnp.sum(mask, axis=-1)


def run(rl, policy, steps, texts=("the cat sat", "one red hat")):
  prompts = policy.encode(list(texts) * 16)
  state = rl.init(jax.random.key(0))
  history = []
  for step in range(steps):
    rollout = rl.rollout(state, prompts, jax.random.key(step))
    state, metrics = rl.update(state, rollout)
    history.append({name: float(value) for name, value in metrics.items()})
  return state, history


@pytest.mark.parametrize("algorithm", ["reinforce", "grpo"])
def test_it_learns_and_keeps_the_policy(algorithm, policy):
  before = jax.tree.map(np.array, policy.params)
  samples = 1 if algorithm == "reinforce" else 2
  rl = api.policy_gradient(
    policy,
    low,
    optax.adam(3e-2),
    algorithm=algorithm,
    samples_per_prompt=samples,
  )
  state, history = run(rl, policy, 20)
  assert history[-1]["score"] > history[0]["score"] + 0.3
  assert history[-1]["kl"] > history[0]["kl"]
  assert int(state.step) == 20
  jax.tree.map(np.testing.assert_array_equal, policy.params, before)
  prompts = policy.encode(["the cat sat"] * 8)
  rewards = []
  for model in (policy, rl.policy(state)):
    samples = model.generate(prompts, jax.random.key(9))
    rewards.append(float(low(prompts, samples.response, samples.mask).mean()))
  assert rewards[1] > rewards[0] + 0.3
  # The trained policy does not pass for the model that it started from.
  trained = rl.policy(state)
  assert trained.name == policy.name and trained.identity != policy.identity


def test_adapters_learn_on_the_policy_s_own_parameters(policy):
  rl = api.policy_gradient(
    policy,
    low,
    optax.adam(3e-2),
    kl_coef=0.0,
    lora=lora_config.LoraConfig(rank=4, targets=(r".*/kernel",)),
  )
  state, history = run(rl, policy, 40)
  scores = [row["score"] for row in history]
  assert np.mean(scores[-10:]) > np.mean(scores[:5]) + 0.06
  assert history[0]["kl"] == pytest.approx(0.0, abs=1e-5)
  table = policy.params["embedding"]["table"]
  leaves = jax.tree.leaves(state.params)
  assert not any(leaf.shape == table.shape for leaf in leaves)
  # A finished policy has the adapters in its kernels.
  trained = rl.policy(state)
  assert jax.tree.structure(trained.params) == jax.tree.structure(policy.params)
  assert trained.identity != policy.identity


def test_the_same_keys_give_the_same_bits(policy):
  rl = api.policy_gradient(policy, low, optax.adam(1e-2))
  (a, _), (b, _) = (run(rl, policy, 2) for _ in range(2))
  jax.tree.map(np.testing.assert_array_equal, a.params, b.params)


def test_shapes_and_options(policy):
  rl = api.policy_gradient(
    policy,
    low,
    optax.sgd(1e-3),
    algorithm="rloo",
    samples_per_prompt=3,
    sampling=decode.SamplingConfig(max_tokens=5, temperature=0.7),
    compute=compute.ComputeConfig(microbatches=2),
  )
  state = rl.init(jax.random.key(0))
  assert set(state.params) == {"policy"}
  prompts = policy.encode(["the cat sat", "one red hat"])
  rollout = rl.rollout(state, prompts, jax.random.key(1))
  assert rollout.response.shape == (2, 3, 5) and rollout.score.shape == (2, 3)
  np.testing.assert_allclose(
    rollout.score, low(prompts, rollout.response, rollout.mask)
  )
  with pytest.raises(ValueError, match="samples_per_prompt"):
    api.policy_gradient(policy, low, optax.sgd(1.0), algorithm="rloo")


def test_without_kl_the_penalty_is_gone(policy):
  scores = {}
  for kl_coef in (0.0, 1.0):
    rl = api.policy_gradient(policy, low, optax.adam(3e-2), kl_coef=kl_coef)
    _, history = run(rl, policy, 8)
    scores[kl_coef] = history[-1]["kl"]
  assert scores[0.0] > scores[1.0] + 0.1
