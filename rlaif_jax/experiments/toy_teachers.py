# SPDX-License-Identifier: Apache-2.0
"""Is AI feedback better than imitating the one who gives it?

The control of arXiv:2402.12366 on the rig: a weak teacher, and a strong one
who is also the critic. A student imitates all texts of a teacher, or a few of
them and then learns from the critic's preferences between its own samples.
Gold, which neither of them knows, judges.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from rlaif_jax.core import batches
from rlaif_jax.core import rng
from rlaif_jax.core import validation
from rlaif_jax.data import converters
from rlaif_jax.dpo import model as dpo_model
from rlaif_jax.engine import optimizer as optimizer_lib
from rlaif_jax.engine import scoring
from rlaif_jax.engine import step as step_lib
from rlaif_jax.experiments import toy_task
from rlaif_jax.experiments import toy_policies
from rlaif_jax.experiments import seed_data

Teacher = Literal["weak", "strong"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherArm(validation.Validated):
  """A way of learning from a teacher.

  Fields:
    name: in rows, tables and figures.
    teacher: whose texts are imitated, "weak" or "strong" (the critic's own).
    share: of the prompts whose texts are imitated.
    feedback: half of the updates are DPO on the critic's preferences between
      two samples for each of the other prompts.
  """

  name: str
  teacher: Teacher
  share: Annotated[float, validation.Bounds(gt=0, le=1)] = 1.0
  feedback: bool = False

  def __post_init__(self):
    super().__post_init__()
    if self.feedback and self.share == 1:
      raise ValueError(
        f"TeacherArm.share is {self.share} and feedback {self.feedback}; share "
        "must be < 1 to leave prompts for feedback"
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeachersConfig(validation.Validated):
  """What the arms share: prompts, updates, and who the teachers are.

  The student has read texts of all words alike (`rig_world.World.even`), for
  as many steps as the rig's first policy read its own. The weak teacher is
  the world's writers. The critic has a taste (`rig_world.World.tasted`), and
  writes what it likes (`rig_world.World.tilted`, by `strength`).
  """

  sft: optimizer_lib.OptimizerConfig
  optimizer: optimizer_lib.OptimizerConfig
  dpo: dpo_model.DPOConfig
  prompts: validation.PositiveInt = 2048
  updates: validation.PositiveInt = 400
  batch_size: validation.PositiveInt = 32
  strength: float = 1.0
  taste: float = 0.3
  evaluations: int = 5

  def __post_init__(self):
    super().__post_init__()
    if self.updates % 2:
      raise ValueError(
        f"TeachersConfig.updates is {self.updates}; it must be even: "
        "half of them are for feedback"
      )


class Student:
  """Learns from teachers; compiled programs and a seed's start are kept."""

  def __init__(self, policies: toy_policies.Policies, config: TeachersConfig):
    programs = policies.programs
    self._programs, self._policies, self._config = programs, policies, config
    sft = optimizer_lib.make_optimizer(config.sft)
    dpo = optimizer_lib.make_optimizer(config.optimizer)
    loss = dpo_model.make_loss(programs.policy, config.dpo)
    self._imitate = sft, step_lib.make_train_step(programs.sft_loss, sft)
    self._prefer = dpo, step_lib.make_train_step(loss, dpo)
    self._start: tuple[int, Any] = (-1, None)

  def stages(
    self, setting: seed_data.Setting, arm: TeacherArm
  ) -> dict[str, list[dict[str, Any]]]:
    """All rows of an arm; KL is that to the start, the critic is the proxy."""
    if self._start[0] != setting.seed:
      start = seed_data.train_first_policy(
        self._programs, setting.world.even(), setting.seed
      )
      self._start = (setting.seed, start)
    started = dataclasses.replace(setting, policy=self._start[1])
    critic = make_critic(setting, self._config)
    cut = round(arm.share * self._config.prompts)
    updates = self._config.updates // (2 if arm.feedback else 1)
    texts = teacher_texts(setting, critic, arm.teacher, cut)
    policy, rows = self._learn(
      started, critic, self._imitate, texts, started.policy, 0, updates
    )
    if arm.feedback:
      pairs = self._judged_pairs(setting, critic, policy, cut)
      _, more = self._learn(
        started, critic, self._prefer, pairs, policy, updates, updates
      )
      rows += more
    return {"policy": rows}

  def _learn(self, started, critic, how, data, params, begin, steps):
    """The policy after some steps, and a row per measurement."""
    tx, update = how
    state = step_lib.state_from_params(
      jax.tree.map(jnp.copy, params), tx, self._programs.devices
    )
    course = toy_policies.Course(
      stream="teachers",
      phase=begin,
      begin=begin,
      steps=steps,
      batch_size=self._config.batch_size,
      evaluations=self._config.evaluations,
    )
    state, rows = self._policies.follow(
      started, state, update, data, course, critic.reward
    )
    return state.params, rows

  def _judged_pairs(self, setting, critic, policy, begin):
    """Two samples for each prompt from `begin` on; a tie weighs nothing."""
    pairs, gaps = seed_data.draw_pairs(
      self._programs,
      dataclasses.replace(critic.setting, policy=policy),
      np.arange(begin, self._config.prompts),
      rng.key(setting.seed, "teachers/samples"),
    )
    pairs = pairs.replace(
      label=(gaps > 0).astype(np.float32),
      weight=(gaps != 0).astype(np.float32),
    )
    parts = [
      self._programs.pair_log_probs(policy, converters.take(pairs, index))
      for index in seed_data.blocks(len(gaps), self._config.batch_size)
    ]
    log_probs = [np.concatenate(x)[: len(gaps)] for x in zip(*parts)]
    return pairs.replace(ref_log_probs=np.stack(log_probs, axis=-1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Critic:
  """The strong teacher: how it writes, and the world as it sees it.

  Gold of `setting` is how much it likes a response: 0 is the weak teacher's
  mean, 1 their standard deviation.
  """

  writers: toy_task.World
  setting: seed_data.Setting

  @property
  def reward(self) -> toy_policies.Reward:
    """What it likes, as a Scorer."""
    return toy_policies.gold_reward(self.setting)


def make_critic(setting: seed_data.Setting, config: TeachersConfig) -> Critic:
  """The one of a seed."""
  generator = rng.numpy_generator(setting.seed, "taste")
  liked = setting.world.tasted(config.taste, generator)
  return Critic(
    writers=liked.tilted(config.strength), setting=setting.judged_by(liked)
  )


def teacher_texts(
  setting: seed_data.Setting, critic: Critic, teacher: str, count: int
) -> batches.TokenBatch:
  """A teacher's texts for the first `count` prompts."""
  world = critic.writers if teacher == "strong" else setting.world
  prompts = seed_data.prompt_rows(world, np.arange(count))
  generator = rng.numpy_generator(setting.seed, f"teachers/{teacher}")
  response, mask = world.write(prompts.prompt, generator)
  return jax.tree.map(np.asarray, scoring.join(prompts, response, mask))
