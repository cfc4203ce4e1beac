# SPDX-License-Identifier: Apache-2.0
"""Best-of-n search and policy training against a proxy, without early stop."""

from __future__ import annotations

import dataclasses
import functools
from typing import Callable, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from rlaif_jax.core import batches
from rlaif_jax.core import protocols
from rlaif_jax.core import rng
from rlaif_jax.core import validation
from rlaif_jax.data import converters
from rlaif_jax.engine import loop
from rlaif_jax.engine import optimizer as optimizer_lib
from rlaif_jax.engine import scoring
from rlaif_jax.engine import step as step_lib
from rlaif_jax.experiments import toy_task
from rlaif_jax.experiments import toy_training
from rlaif_jax.experiments import toy_rewards
from rlaif_jax.experiments import seed_data
from rlaif_jax.experiments import toy_rows
from rlaif_jax.ops import best_of_n
from rlaif_jax.reward import ensemble as ensemble_lib
from rlaif_jax.rl import algorithms
from rlaif_jax.rl import rollout as rollout_lib
from rlaif_jax.rl import update as update_lib


class ToyReward(NamedTuple):
  """A Scorer with its parameters, called with the rest of its arguments."""

  score: protocols.Scorer
  params: PyTree

  def __call__(self, prompts, response, mask):
    return self.score(self.params, prompts, response, mask)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToySearchConfig(validation.Validated):
  """Best of n.

  Attributes:
    samples: of each prompt; the estimates of all n use all of them.
    prompts: number of prompts.
    sizes: values of n.
  """

  samples: validation.PositiveInt = 1024
  prompts: validation.PositiveInt = 16
  sizes: tuple[validation.PositiveInt, ...] = (1, 4, 16, 64, 256, 1024)

  def __post_init__(self):
    super().__post_init__()
    if max(self.sizes) > self.samples:
      raise ValueError(
        f"ToySearchConfig: sizes are {self.sizes} and samples is "
        f"{self.samples}; the best of n needs n samples"
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToyPolicyConfig:
  """Training of a policy, the same for all arms.

  Attributes:
    optimizer: of the policy.
    value: optimizer of the value network, for algorithms that have one.
    steps: number of updates.
    prompts: of an update. An objective with m minibatches draws m times as
      many prompts at once, so arms take the same samples and updates.
    evaluations: number of measurements.
    evaluation_rows: fresh samples of a measurement.
  """

  optimizer: optimizer_lib.OptimizerConfig
  value: optimizer_lib.OptimizerConfig
  steps: int = 300
  prompts: int = 32
  evaluations: int = 20
  evaluation_rows: int = 512

  def times(self) -> list[int]:
    """Returns the steps of the measurements, dense at the start.

    The last is `steps`.
    """
    grid = np.linspace(0.0, 1.0, self.evaluations) ** 2 * self.steps
    return sorted({int(round(x)) for x in grid})


class ToyPhase(NamedTuple):
  """Updates on fixed rows, in shuffled epochs.

  Attributes:
    name: of the random streams.
    number: of the phase; each has an order of its own.
    begin: updates before the phase.
    steps: updates of the phase.
    batch_size: rows of a batch.
    evaluations: measurements at even distances; the first phase also measures
      the policy that it starts from.
  """

  name: str
  number: int
  begin: int
  steps: int
  batch_size: int
  evaluations: int


class Policies:
  """Searches and trains with rewards; compiled programs are cached."""

  def __init__(
    self,
    programs: seed_data.Programs,
    rewards: toy_rewards.ProxyTrainer,
    search: ToySearchConfig,
    train: ToyPolicyConfig,
  ):
    self.programs = programs
    self.rewards = rewards
    self._search = search
    self._config = train
    self._samples: tuple[seed_data.SeedData, tuple] | None = None
    self.scorer = functools.cache(self._make_scorer)
    self._programs_of = functools.cache(self._make_programs)

  def _make_scorer(
    self,
    ensemble: ensemble_lib.EnsembleConfig,
    aggregate: str,
    coefficient: float,
  ):
    """Returns the jitted Scorer of an aggregate."""
    return jax.jit(
      ensemble_lib.ensemble_scorer(
        self.programs.scalar,
        ensemble,
        aggregate=aggregate,
        coefficient=coefficient,
      )
    )

  def deviation(self, ensemble, unit, prompts, samples) -> float:
    """Returns the mean standard deviation of the members' rewards."""
    joined = scoring.join(prompts, jnp.asarray(samples.response), samples.mask)
    raw = self.rewards.rewards(ensemble)(unit.params, joined)
    members = (raw - unit.shift[:, None]) / unit.scale[:, None]
    return float(jnp.mean(jnp.std(members, axis=0)))

  def search_samples(self, data: seed_data.SeedData):
    """Returns prompts, samples and gold [P, N]; cached for a seed."""
    if self._samples is None or self._samples[0] is not data:
      n = self._search.samples
      rows = np.repeat(np.arange(self._search.prompts), n)
      prompts = seed_data.prompt_rows(data.world, rows)
      prompts = prompts.replace(row=np.arange(len(rows), dtype=np.int32))
      samples = self.programs.draw(
        data.policy, prompts, rng.key(data.seed, "search")
      )
      gold = data.gold(prompts, samples).reshape(-1, n)
      self._samples = (data, (prompts, samples, gold))
    return self._samples[1]

  def best_of_n(
    self, data: seed_data.SeedData, reward: ToyReward
  ) -> toy_rows.Rows:
    """Returns a row for each n: unbiased estimates of the best of n."""
    prompts, samples, gold = self.search_samples(data)
    shape = gold.shape
    values = {
      "proxy": self._score(reward, prompts, samples).reshape(shape),
      "gold": gold,
      "win_rate": data.wins(prompts, gold.reshape(-1)).reshape(shape),
      "tokens": samples.mask.sum(axis=1).reshape(shape),
    }
    rows = []
    for n in self._search.sizes:
      means = {
        name: float(best_of_n.estimate(values["proxy"], value, n).mean())
        for name, value in values.items()
      }
      rows.append({"n": n, "kl": best_of_n.kl(n), **means})
    return rows

  def _score(self, reward: ToyReward, prompts, samples) -> np.ndarray:
    block, parts = 8 * self.programs.config.batch_size, []
    for index in seed_data.blocks(len(prompts.row), block):
      part = converters.take(prompts, index)
      response, mask = samples.response[index], samples.mask[index]
      parts.append(reward(part, response[:, None], mask[:, None])[:, 0])
    return np.concatenate(parts)[: len(prompts.row)]

  def _make_programs(self, rl: algorithms.RLConfig):
    """Returns (optimizer, collect, update) of an objective."""
    policy, sampling = self.programs.policy, self.programs.sampling()
    config = dataclasses.replace(rl, sampling=sampling)
    needs_value = rl.row.needs_value
    value = self.programs.value if needs_value else None
    collect = rollout_lib.make_collect(
      policy,
      value,
      lambda reward, *responses: reward(*responses),
      config=config,
      eos_ids=(toy_task.END,),
    )
    optimizers = {
      "policy": optimizer_lib.make_optimizer(self._config.optimizer),
      "value": optimizer_lib.make_optimizer(self._config.value),
    }
    tx, update = update_lib.make_update(policy, value, config, optimizers)
    return tx, collect, update

  def start(self, data, rl: algorithms.RLConfig):
    """Returns the first policy, with a value network where one is used."""
    params = {"policy": jax.tree.map(jnp.copy, data.policy)}
    if rl.row.needs_value:
      value = nn.unbox(self.programs.value.init(rng.key(data.seed, "value")))
      trunk = {name: data.policy[name] for name in value["decoder"]}
      params["value"] = {**value, "decoder": jax.tree.map(jnp.copy, trunk)}
    return params

  def reinforce(
    self,
    data: seed_data.SeedData,
    reward: ToyReward,
    rl: algorithms.RLConfig,
    *,
    proxy: ToyReward | None = None,
    extras: Callable[..., toy_rows.Row] | None = None,
  ) -> toy_rows.Rows:
    """Trains a policy on a reward and returns a row for each measurement.

    Args:
      data: world and first policy of the seed.
      reward: trains the policy.
      rl: objective and algorithm.
      proxy: reported as the proxy; None reports `reward`.
      extras: (prompts, Samples) -> further numbers of a row.

    Raises:
      ValueError: the steps are not a multiple of the updates of a rollout.
    """
    inner = rl.epochs * rl.minibatches
    if self._config.steps % inner:
      raise ValueError(
        f"ToyPolicyConfig.steps is {self._config.steps}; it must be a multiple "
        f"of the {inner} updates (epochs times minibatches) of a rollout"
      )
    tx, collect, update = self._programs_of(rl)
    frozen = {"reference": data.policy, "scorer": reward}
    size, rows = self._config.prompts * rl.minibatches, []

    def next_batch(state, number):
      index = np.arange(size) + number * size
      prompts = seed_data.prompt_rows(data.world, index)
      key = rng.key(data.seed, "rollout", number)
      batch, _ = collect(state.params, frozen, prompts, key)
      return toy_training.on_mesh(batch, self.programs.devices)

    def evaluate(params, number):
      row = self.measure(data, params["policy"], proxy or reward, extras)
      rows.append({"step": number * inner, **row})
      return row

    toy_training.fit(
      step_lib.state_from_params(
        self.start(data, rl), tx, self.programs.devices
      ),
      update,
      next_batch,
      num_steps=self._config.steps // inner,
      seed=data.seed,
      name="policy",
      evaluate=evaluate,
      evaluate_at={-(-step // inner) for step in self._config.times()},
    )
    return rows

  def train(
    self,
    data: seed_data.SeedData,
    state: step_lib.TrainState,
    update: loop.StepFn,
    examples: batches.PairBatch | batches.TokenBatch,
    phase: ToyPhase,
    proxy: ToyReward,
  ) -> tuple[step_lib.TrainState, toy_rows.Rows]:
    """Returns the state after a phase of updates, and its measurements."""
    times = np.linspace(0, phase.steps, phase.evaluations, dtype=int)
    rows = []

    def evaluate(params, step):
      row = self.measure(data, params, proxy)
      rows.append({"step": phase.begin + step, **row})
      return row

    # `fit` counts from state.step, and each phase from 0.
    zero = toy_training.on_mesh(np.int32(0), self.programs.devices)
    state = toy_training.fit(
      state.replace(step=zero),
      update,
      toy_training.epoch_batches(
        examples,
        self.programs.devices,
        batch_size=phase.batch_size,
        seed=data.seed,
        name=f"{phase.name}/{phase.number}",
      ),
      num_steps=phase.steps,
      seed=data.seed,
      name=phase.name,
      evaluate=evaluate,
      evaluate_at=[step for step in times if step or not phase.begin],
    )
    return state, rows

  def measure(
    self,
    data: seed_data.SeedData,
    policy: PyTree,
    proxy: ToyReward,
    extras: Callable[..., toy_rows.Row] | None = None,
  ) -> toy_rows.Row:
    """Measures gold, proxy, KL and length of a policy on fresh samples.

    All policies of a seed use the same prompts and keys. The KL is the mean of
    log pi - log ref over samples, an unbiased estimate. The win rate is against
    the first policy's samples, by gold.
    """
    rows = np.arange(self._config.evaluation_rows)
    prompts = seed_data.prompt_rows(data.world, rows)
    key = rng.key(data.seed, "measure")
    samples = self.programs.draw(policy, prompts, key)
    reference = self.programs.log_probs(data.policy, prompts, samples)
    ratio = (samples.log_probs - reference) * samples.mask
    gold = data.gold(prompts, samples)
    return {
      "kl": float(ratio.sum(axis=1).mean()),
      "gold": float(gold.mean()),
      "proxy": float(self._score(proxy, prompts, samples).mean()),
      "tokens": float(samples.mask.sum(axis=1).mean()),
      "win_rate": float(data.wins(prompts, gold).mean()),
      **(extras(prompts, samples) if extras else {}),
    }


def gold_reward(data: seed_data.SeedData) -> ToyReward:
  """Returns gold as a Scorer, computed on the host."""
  return ToyReward(_gold, data)


def _gold(data, prompts, response, mask):
  return data.score(*map(np.asarray, (prompts.prompt, response, mask)))


@functools.lru_cache(maxsize=4)
def make_policies(
  toy: seed_data.ToyConfig,
  proxies: toy_rewards.ToyProxyConfig,
  search: ToySearchConfig,
  train: ToyPolicyConfig,
) -> Policies:
  """Returns all programs of an experiment; the latest four are cached."""
  rewards = toy_rewards.make_trainer(toy, proxies)
  return Policies(rewards.programs, rewards, search, train)
