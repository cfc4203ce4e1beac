# SPDX-License-Identifier: Apache-2.0
"""A rig that compiles and runs in seconds, shared by its tests."""

from __future__ import annotations

import functools

from rlaif_jax.dpo import model as dpo_model
from rlaif_jax.engine import optimizer
from rlaif_jax.evaluation import rig_world
from rlaif_jax.jobs import rig_policies
from rlaif_jax.jobs import rig_rewards
from rlaif_jax.jobs import rig_setting
from rlaif_jax.jobs import rig_teachers
from rlaif_jax.models import lora
from tests import testing

WORLD = rig_world.WorldConfig(
  topics=2, words=6, max_words=3, shortest=3, longest=3, decline=1.0
)
MODEL = testing.tiny_decoder(WORLD.vocab_size, num_layers=1, max_length=8)
LORA = lora.LoraConfig(rank=2, targets=("decoder/.*/query/kernel",))


def adam(rate: float) -> optimizer.OptimizerConfig:
  return optimizer.OptimizerConfig(name="adamw", learning_rate=rate)


CONFIG = rig_setting.RigConfig(
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
PROXIES = rig_rewards.ProxyConfig(
  optimizer=adam(1e-2), adapters=adam(2e-2), epochs=10, batch_size=32
)
SEARCH = rig_policies.SearchConfig(samples=16, prompts=4, sizes=(1, 4, 16))
TRAIN = rig_policies.PolicyConfig(
  optimizer=adam(1e-2),
  value=adam(3e-2),
  steps=6,
  prompts=8,
  evaluations=3,
  evaluation_rows=64,
)

TEACHERS = rig_teachers.TeachersConfig(
  sft=adam(1e-2),
  optimizer=adam(1e-2),
  dpo=dpo_model.DPOConfig(),
  prompts=128,
  updates=40,
  strength=2.0,
  evaluations=3,
)


def policies() -> rig_policies.Policies:
  return rig_policies.make_policies(CONFIG, PROXIES, SEARCH, TRAIN)


def programs() -> rig_setting.Programs:
  return rig_setting.make_programs(CONFIG)


@functools.cache
def setting(seed: int = 0) -> rig_setting.Setting:
  return rig_setting.make_setting(programs(), seed)


def trainer() -> rig_rewards.Trainer:
  return rig_rewards.make_trainer(CONFIG, PROXIES)
