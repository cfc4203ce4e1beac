# SPDX-License-Identifier: Apache-2.0
"""What the rig does with a proxy: best of n, and reinforcement unstopped."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Callable, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rlaif_jax.core import rng
from rlaif_jax.data import converters
from rlaif_jax.engine import optimizer as optimizer_lib
from rlaif_jax.engine import scoring
from rlaif_jax.engine import step as step_lib
from rlaif_jax.experiments import toy_task
from rlaif_jax.experiments import toy_rewards
from rlaif_jax.experiments import seed_data
from rlaif_jax.ops import best_of_n
from rlaif_jax.reward import ensemble as ensemble_lib
from rlaif_jax.rl import algorithms
from rlaif_jax.rl import rollout as rollout_lib

Row = dict[str, Any]


class Reward(NamedTuple):
  """A Scorer with its parameters."""

  score: Any
  params: Any

  def __call__(self, prompts, response, mask):
    return self.score(self.params, prompts, response, mask)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchConfig:
  """Best of n: `samples` of each of `prompts` prompts serve every n."""

  samples: int = 1024
  prompts: int = 16
  sizes: tuple[int, ...] = (1, 4, 16, 64, 256, 1024)

  def __post_init__(self):
    if max(self.sizes) > self.samples:
      raise ValueError(
        f"SearchConfig: sizes are {self.sizes} and samples {self.samples}; "
        "the best of n needs n samples"
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyConfig:
  """Training of a policy: `steps` updates of `prompts` prompts each.

  An objective with m minibatches draws m times as many prompts at once, so
  that arms take the same samples and updates. `value` optimizes the value
  network of the algorithms that have one. A policy is measured `evaluations`
  times on `evaluation_rows` fresh samples, and never stopped early.
  """

  optimizer: optimizer_lib.OptimizerConfig
  value: optimizer_lib.OptimizerConfig
  steps: int = 300
  prompts: int = 32
  evaluations: int = 20
  evaluation_rows: int = 512

  def times(self) -> list[int]:
    """Steps at which the policy is measured: squares, so that early ones are
    close together; the last is `steps`."""
    grid = np.linspace(0.0, 1.0, self.evaluations) ** 2 * self.steps
    return sorted({int(round(x)) for x in grid})


class Course(NamedTuple):
  """A stretch of updates on data that are there, rows in epochs.

  `stream` and `phase` name what is drawn; `begin` counts the updates before.
  The policy is measured `evaluations` times at even distances, the start with
  them where nothing came before.
  """

  stream: str
  phase: int
  begin: int
  steps: int
  batch_size: int
  evaluations: int


class Policies:
  """Searches and trains with proxies; compiled programs are kept."""

  def __init__(
    self,
    programs: seed_data.Programs,
    rewards: toy_rewards.Trainer,
    search: SearchConfig,
    train: PolicyConfig,
  ):
    self.programs = programs
    self.rewards = rewards
    self._search = search
    self._train = train
    self._samples: tuple[seed_data.Setting, Any] | None = None
    self.scorer = functools.cache(self._make_scorer)
    self._trainer = functools.cache(self._make_trainer)

  def _make_scorer(
    self,
    ensemble: ensemble_lib.EnsembleConfig,
    aggregate: str,
    coefficient: float,
  ):
    """The jitted Scorer of an aggregate."""
    return jax.jit(
      ensemble_lib.ensemble_scorer(
        self.programs.scalar,
        ensemble,
        aggregate=aggregate,
        coefficient=coefficient,
      )
    )

  def deviation(self, ensemble, unit, prompts, drawn) -> float:
    """Mean standard deviation of the members' rewards, in their units."""
    joined = scoring.join(prompts, jnp.asarray(drawn.response), drawn.mask)
    raw = self.rewards.rewards(ensemble)(unit.params, joined)
    members = (raw - unit.shift[:, None]) / unit.scale[:, None]
    return float(jnp.mean(jnp.std(members, axis=0)))

  def search_samples(self, setting: seed_data.Setting):
    """Prompts, samples and their gold [P, N]; kept for the seed's arms."""
    if self._samples is None or self._samples[0] is not setting:
      n = self._search.samples
      rows = np.repeat(np.arange(self._search.prompts), n)
      prompts = seed_data.prompt_rows(setting.world, rows)
      prompts = prompts.replace(row=np.arange(len(rows), dtype=np.int32))
      drawn = self.programs.draw(
        setting.policy, prompts, rng.key(setting.seed, "search")
      )
      gold = setting.gold(prompts, drawn).reshape(-1, n)
      self._samples = (setting, (prompts, drawn, gold))
    return self._samples[1]

  def best_of_n(self, setting: seed_data.Setting, reward: Reward) -> list[Row]:
    """A row per n: the unbiased estimates of proxy, gold, wins and length."""
    prompts, drawn, gold = self.search_samples(setting)
    shape = gold.shape
    values = {
      "proxy": self._score(reward, prompts, drawn).reshape(shape),
      "gold": gold,
      "win_rate": setting.wins(prompts, gold.reshape(-1)).reshape(shape),
      "tokens": drawn.mask.sum(axis=1).reshape(shape),
    }
    rows = []
    for n in self._search.sizes:
      means = {
        name: float(best_of_n.estimate(values["proxy"], value, n).mean())
        for name, value in values.items()
      }
      rows.append({"n": n, "kl": best_of_n.kl(n), **means})
    return rows

  def _score(self, reward: Reward, prompts, drawn) -> np.ndarray:
    block, parts = 8 * self.programs.config.batch_size, []
    for index in seed_data.blocks(len(prompts.row), block):
      part = converters.take(prompts, index)
      parts.append(reward(part, drawn.response[index], drawn.mask[index]))
    return np.concatenate(parts)[: len(prompts.row)]

  def _make_trainer(self, rl: algorithms.RLConfig):
    """(optimizer, collect, update) of an objective, for any `Reward`."""
    policy, sampling = self.programs.policy, self.programs.sampling()
    value, optimizers = None, {"policy": self._train.optimizer}
    if algorithms.ALGORITHMS[rl.algorithm].needs_value:
      value = self.programs.value
      optimizers["value"] = self._train.value
    collect = rollout_lib.make_collect(
      policy,
      value,
      lambda reward, *responses: reward(*responses),
      config=rl,
      sampling=sampling,
      eos_ids=(toy_task.END,),
    )
    tx = optimizer_lib.make_joint_optimizer(optimizers)
    update = step_lib.make_train_step(
      algorithms.make_loss(policy, value, config=rl, temperature=1.0),
      tx,
      epochs=rl.epochs,
      minibatches=rl.minibatches,
      group_size=rl.samples_per_prompt,
    )
    return tx, collect, update

  def start(self, setting, rl: algorithms.RLConfig):
    """The first policy, and a value network on its trunk if need be."""
    params = {"policy": jax.tree.map(jnp.copy, setting.policy)}
    if algorithms.ALGORITHMS[rl.algorithm].needs_value:
      value = nn.unbox(self.programs.value.init(rng.key(setting.seed, "value")))
      trunk = {name: setting.policy[name] for name in value["decoder"]}
      params["value"] = {**value, "decoder": jax.tree.map(jnp.copy, trunk)}
    return params

  def reinforce(
    self,
    setting: seed_data.Setting,
    reward: Reward,
    rl: algorithms.RLConfig,
    *,
    proxy: Reward | None = None,
    more: Callable[..., Row] | None = None,
  ) -> list[Row]:
    """Trains on a reward to the end; a row per measurement.

    Args:
      setting: the seed's world.
      reward: what the policy is trained on.
      rl: objective and algorithm.
      proxy: what is reported as the proxy, if it is another than `reward`.
      more: (prompts, Sampled) -> more numbers of a row.

    Raises:
      ValueError: updates of a rollout do not divide the steps.
    """
    inner = rl.epochs * rl.minibatches
    if self._train.steps % inner:
      raise ValueError(
        f"PolicyConfig.steps is {self._train.steps}; it must be a multiple of "
        f"the {inner} updates (epochs times minibatches) of a rollout"
      )
    tx, collect, update = self._trainer(rl)
    state = step_lib.state_from_params(
      self.start(setting, rl), tx, self.programs.devices
    )
    frozen = {"reference": setting.policy, "scorer": reward}
    due, rows = self._train.times(), []
    size = self._train.prompts * rl.minibatches
    for number in range(self._train.steps // inner + 1):
      step = number * inner
      if due[0] <= step:
        due = [time for time in due if time > step]
        row = self.measure(
          setting, state.params["policy"], proxy or reward, more
        )
        rows.append({"step": step, **row})
      if step == self._train.steps:
        break
      prompts = seed_data.prompt_rows(
        setting.world, np.arange(size) + number * size
      )
      key = rng.key(setting.seed, "rollout", number)
      batch, _ = collect(state.params, frozen, prompts, key)
      state, _ = update(state, batch, rng.key(setting.seed, "update", number))
    return rows

  def follow(
    self,
    setting: seed_data.Setting,
    state: step_lib.TrainState,
    update: Callable[..., Any],
    data: Any,
    course: Course,
    proxy: Reward,
  ) -> tuple[step_lib.TrainState, list[Row]]:
    """The state after a course of updates on data, and its measurements."""
    times = np.linspace(0, course.steps, course.evaluations, dtype=int)
    rows = []
    for local in range(course.steps + 1):
      step = course.begin + local
      if local in times and (local or not course.begin):
        row = self.measure(setting, state.params, proxy)
        rows.append({"step": step, **row})
      if local == course.steps:
        break
      index = converters.epoch_rows(
        num_rows=len(jax.tree.leaves(data)[0]),
        batch_size=course.batch_size,
        seed=setting.seed,
        name=f"{course.stream}/{course.phase}",
        step=local,
      )
      key = rng.key(setting.seed, f"{course.stream}/update", step)
      state, _ = update(state, converters.take(data, index), key)
    return state, rows

  def measure(
    self,
    setting: seed_data.Setting,
    policy: Any,
    proxy: Reward,
    more: Callable[..., Row] | None = None,
  ) -> Row:
    """Gold, proxy, KL and length of a policy on fresh samples.

    All policies of a seed answer the same prompts with the same keys. The KL
    is the mean over samples of log pi - log ref, exact in expectation. The win
    rate is that against the first policy's samples, by gold.
    """
    rows = np.arange(self._train.evaluation_rows)
    prompts = seed_data.prompt_rows(setting.world, rows)
    key = rng.key(setting.seed, "measure")
    drawn = self.programs.draw(policy, prompts, key)
    reference = self.programs.log_probs(setting.policy, prompts, drawn)
    gap = (drawn.log_probs - reference) * drawn.mask
    gold = setting.gold(prompts, drawn)
    return {
      "kl": float(gap.sum(axis=1).mean()),
      "gold": float(gold.mean()),
      "proxy": float(self._score(proxy, prompts, drawn).mean()),
      "tokens": float(drawn.mask.sum(axis=1).mean()),
      "win_rate": float(setting.wins(prompts, gold).mean()),
      **(more(prompts, drawn) if more else {}),
    }


def gold_reward(setting: seed_data.Setting) -> Reward:
  """Gold itself as a Scorer, on the host between sampling and update."""
  return Reward(_gold, setting)


def _gold(setting, prompts, response, mask):
  return setting.score(np.asarray(prompts.prompt), response, mask)


@functools.lru_cache(maxsize=4)
def make_policies(
  rig: seed_data.RigConfig,
  proxies: toy_rewards.ProxyConfig,
  search: SearchConfig,
  train: PolicyConfig,
) -> Policies:
  """All programs of a rig; those of the latest configs are kept, so that a
  second start in one process compiles nothing anew."""
  rewards = toy_rewards.make_trainer(rig, proxies)
  return Policies(rewards.programs, rewards, search, train)
