# SPDX-License-Identifier: Apache-2.0
"""A toy world that compiles and runs in seconds, shared by tests."""

from __future__ import annotations

import functools

from rlaif_jax.dpo import model as dpo_model
from rlaif_jax.engine import optimizer
from rlaif_jax.experiments import toy_task
from rlaif_jax.experiments import toy_policies
from rlaif_jax.experiments import toy_rewards
from rlaif_jax.experiments import seed_data
from rlaif_jax.experiments import toy_teachers
from rlaif_jax.models import lora
from tests import testing

WORLD = toy_task.ToyWorldConfig(
  topics=2, words=6, max_words=3, shortest=3, longest=3, decline=1.0
)
MODEL = testing.tiny_decoder(WORLD.vocab_size, num_layers=1, max_length=8)
LORA = lora.LoraConfig(rank=2, targets=("decoder/.*/query/kernel",))


def adam(rate: float) -> optimizer.OptimizerConfig:
  return optimizer.OptimizerConfig(name="adamw", learning_rate=rate)


CONFIG = seed_data.ToyConfig(
  world=WORLD,
  policy=MODEL,
  proxy=MODEL,
  sft=adam(1e-2),
  sft_steps=60,
  pairs=96,
  test_pairs=64,
  flip=0.1,
  reference=64,
  batch_size=32,
)
PROXIES = toy_rewards.ToyProxyConfig(
  optimizer=adam(1e-2), adapters=adam(2e-2), epochs=10, batch_size=32
)
SEARCH = toy_policies.ToySearchConfig(samples=16, prompts=4, sizes=(1, 4, 16))
TRAIN = toy_policies.ToyPolicyConfig(
  optimizer=adam(1e-2),
  value=adam(3e-2),
  steps=6,
  prompts=8,
  evaluations=3,
  evaluation_rows=64,
)

TEACHERS = toy_teachers.ToyTeacherConfig(
  sft=adam(1e-2),
  optimizer=adam(1e-2),
  dpo=dpo_model.DPOConfig(),
  prompts=128,
  updates=40,
  strength=2.0,
  evaluations=3,
)


def policies() -> toy_policies.Policies:
  return toy_policies.make_policies(CONFIG, PROXIES, SEARCH, TRAIN)


def programs() -> seed_data.Programs:
  return seed_data.make_programs(CONFIG)


@functools.cache
def data(seed: int = 0) -> seed_data.SeedData:
  return seed_data.make_seed_data(programs(), seed)


def trainer() -> toy_rewards.ProxyTrainer:
  return toy_rewards.make_trainer(CONFIG, PROXIES)
