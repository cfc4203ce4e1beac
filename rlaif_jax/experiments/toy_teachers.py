# SPDX-License-Identifier: Apache-2.0
"""Compares AI feedback with SFT on texts of the critic itself.

The control of arXiv:2402.12366 in the toy world: a weak teacher, and a strong
one that is also the critic. A student trains on all texts of a teacher, or on
a few of them and then with DPO on the critic's preferences between its own
samples. Gold, which neither teacher knows, evaluates the students.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

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
from rlaif_jax.experiments import toy_rows

Teacher = Literal["weak", "strong"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToyTeacherArm(validation.Validated):
  """A student that learns from a teacher.

  Attributes:
    name: in rows, tables and figures.
    teacher: author of the SFT texts, "weak" or "strong" (the critic).
    share: fraction of the prompts with an SFT text.
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
        f"ToyTeacherArm.share is {self.share} and feedback is True; share must "
        "be < 1 to leave prompts for feedback"
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToyTeacherConfig(validation.Validated):
  """Data and training that the arms share.

  The student starts from SFT on uniformly random words
  (`toy_task.World.uniform`), with the updates of the first policy. The weak
  teacher is the world's writers.

  Attributes:
    sft: optimizer of SFT on a teacher's texts.
    optimizer: of DPO.
    dpo: objective of the feedback.
    prompts: number of prompts.
    updates: of an arm.
    batch_size: rows of an update.
    strength: exponent with which the strong teacher prefers words of high
      value in its own biased world (`toy_task.World.tilted`).
    bias: of the critic's word values (`toy_task.World.biased`).
    evaluations: measurements of a phase.
  """

  sft: optimizer_lib.OptimizerConfig
  optimizer: optimizer_lib.OptimizerConfig
  dpo: dpo_model.DPOConfig
  prompts: validation.PositiveInt = 2048
  updates: validation.PositiveInt = 400
  batch_size: validation.PositiveInt = 32
  strength: float = 1.0
  bias: float = 0.3
  evaluations: int = 5

  def __post_init__(self):
    super().__post_init__()
    if self.updates % 2:
      raise ValueError(
        f"ToyTeacherConfig.updates is {self.updates}; it must be even: "
        "half of them are for feedback"
      )


class Student:
  """Trains students; caches programs and the start of a seed."""

  def __init__(self, policies: toy_policies.Policies, config: ToyTeacherConfig):
    programs = policies.programs
    self._programs, self._policies, self._config = programs, policies, config
    sft = optimizer_lib.make_optimizer(config.sft)
    dpo = optimizer_lib.make_optimizer(config.optimizer)
    loss = dpo_model.make_loss(programs.policy, config.dpo)
    self._imitate = sft, step_lib.make_train_step(programs.sft_loss, sft)
    self._prefer = (
      dpo,
      step_lib.make_train_step(
        loss,
        dpo,
        prepare=dpo_model.make_prepare(
          programs.policy, config.dpo, microbatches=1
        ),
      ),
    )
    self._start: tuple[int, PyTree] = (-1, None)

  def stages(
    self, data: seed_data.SeedData, arm: ToyTeacherArm
  ) -> dict[str, toy_rows.Rows]:
    """Returns the rows of an arm.

    KL is measured to the student's start, and the proxy is the critic.
    """
    if self._start[0] != data.seed:
      start = seed_data.train_first_policy(
        self._programs, data.world.uniform(), data.seed
      )
      self._start = (data.seed, start)
    started = dataclasses.replace(data, policy=self._start[1])
    critic = make_critic(data, self._config)
    cut = round(arm.share * self._config.prompts)
    updates = self._config.updates // (2 if arm.feedback else 1)
    texts = teacher_texts(data, critic, arm.teacher, cut)
    policy, rows = self._learn(
      started, critic, self._imitate, texts, started.policy, 0, updates
    )
    if arm.feedback:
      pairs = self._judged_pairs(data, critic, policy, cut)
      _, measured = self._learn(
        started, critic, self._prefer, pairs, policy, updates, updates
      )
      rows += measured
    return {"policy": rows}

  def _learn(self, started, critic, programs, examples, params, begin, steps):
    """Returns the policy after some updates, and its measurements."""
    tx, update = programs
    state = step_lib.state_from_params(
      jax.tree.map(jnp.copy, params), tx, self._programs.devices
    )
    phase = toy_policies.ToyPhase(
      name="teachers",
      number=begin,
      begin=begin,
      steps=steps,
      batch_size=self._config.batch_size,
      evaluations=self._config.evaluations,
    )
    state, rows = self._policies.train(
      started, state, update, examples, phase, critic.reward
    )
    return state.params, rows

  def _judged_pairs(self, data, critic, policy, begin):
    """Samples and judges pairs of prompts from `begin` on; ties weigh 0."""
    pairs, margins = seed_data.draw_pairs(
      self._programs,
      dataclasses.replace(critic.data, policy=policy),
      np.arange(begin, self._config.prompts),
      rng.key(data.seed, "teachers/samples"),
    )
    pairs = pairs.replace(
      label=(margins > 0).astype(np.float32),
      weight=(margins != 0).astype(np.float32),
    )
    parts = [
      self._programs.pair_log_probs(policy, converters.take(pairs, index))
      for index in seed_data.blocks(len(margins), self._config.batch_size)
    ]
    log_probs = [np.concatenate(x)[: len(margins)] for x in zip(*parts)]
    return pairs.replace(ref_log_probs=np.stack(log_probs, axis=-1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Critic:
  """The strong teacher.

  Attributes:
    writers: world whose writers are the strong teacher.
    data: seed data whose gold is the critic's score, in units of the first
      policy's samples.
  """

  writers: toy_task.World
  data: seed_data.SeedData

  @property
  def reward(self) -> toy_policies.ToyReward:
    """The critic's score as a Scorer."""
    return toy_policies.gold_reward(self.data)


def make_critic(data: seed_data.SeedData, config: ToyTeacherConfig) -> Critic:
  """Returns the critic of a seed."""
  generator = rng.numpy_generator(data.seed, "taste")
  world = data.world.biased(config.bias, generator)
  return Critic(
    writers=world.tilted(config.strength), data=data.rescored(world)
  )


def teacher_texts(
  data: seed_data.SeedData, critic: Critic, teacher: str, count: int
) -> batches.TokenBatch:
  """Returns a teacher's texts for the first `count` prompts."""
  world = critic.writers if teacher == "strong" else data.world
  prompts = seed_data.prompt_rows(world, np.arange(count))
  generator = rng.numpy_generator(data.seed, f"teachers/{teacher}")
  response, mask = world.write(prompts.prompt, generator)
  return jax.tree.map(np.asarray, scoring.join(prompts, response, mask))
