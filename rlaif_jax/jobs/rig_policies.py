# SPDX-License-Identifier: Apache-2.0
"""What the rig does with a proxy: best of n, and reinforcement unstopped."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlaif_jax.core import rng
from rlaif_jax.data import converters
from rlaif_jax.engine import optimizer as optimizer_lib
from rlaif_jax.engine import scoring
from rlaif_jax.engine import step as step_lib
from rlaif_jax.jobs import rig_rewards
from rlaif_jax.jobs import rig_setting
from rlaif_jax.ops import best_of_n
from rlaif_jax.reward import ensemble as ensemble_lib
from rlaif_jax.rl import algorithms
from rlaif_jax.rl import rollout as rollout_lib

Row = dict[str, Any]


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

  It is measured `evaluations` times on `evaluation_rows` fresh samples, and
  never stopped early.
  """

  optimizer: optimizer_lib.OptimizerConfig
  steps: int = 300
  prompts: int = 32
  evaluations: int = 20
  evaluation_rows: int = 512

  def times(self) -> list[int]:
    """Steps at which the policy is measured: squares, so that early ones are
    close together; the last is `steps`."""
    grid = np.linspace(0.0, 1.0, self.evaluations) ** 2 * self.steps
    return sorted({int(round(x)) for x in grid})


class Policies:
  """Searches and trains with proxies; compiled programs are kept."""

  def __init__(
    self,
    programs: rig_setting.Programs,
    rewards: rig_rewards.Trainer,
    search: SearchConfig,
    train: PolicyConfig,
  ):
    self._programs = programs
    self._rewards = rewards
    self._search = search
    self._train = train
    self._samples: tuple[int, Any] | None = None
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
        self._programs.scalar,
        ensemble,
        aggregate=aggregate,
        coefficient=coefficient,
      )
    )

  def deviation(self, ensemble, unit, prompts, drawn) -> float:
    """Mean standard deviation of the members' rewards, in their units."""
    joined = scoring.join(prompts, jnp.asarray(drawn.response), drawn.mask)
    raw = self._rewards.rewards(ensemble)(unit.params, joined)
    members = (raw - unit.shift[:, None]) / unit.scale[:, None]
    return float(jnp.mean(jnp.std(members, axis=0)))

  def search_samples(self, setting: rig_setting.Setting):
    """Prompts, samples and their gold [P, N]; kept for the seed's arms."""
    if self._samples is None or self._samples[0] != setting.seed:
      n = self._search.samples
      rows = np.repeat(np.arange(self._search.prompts), n)
      prompts = rig_setting.prompt_rows(setting.world, rows)
      prompts = prompts.replace(row=np.arange(len(rows), dtype=np.int32))
      drawn = self._programs.draw(
        setting.policy, prompts, rng.key(setting.seed, "search")
      )
      gold = setting.gold(prompts, drawn).reshape(-1, n)
      self._samples = (setting.seed, (prompts, drawn, gold))
    return self._samples[1]

  def best_of_n(self, setting, score, unit) -> list[Row]:
    """A row per n: the unbiased estimates of proxy, gold and length."""
    prompts, drawn, gold = self.search_samples(setting)
    proxy = self._score(score, unit, prompts, drawn).reshape(gold.shape)
    tokens = drawn.mask.sum(axis=1).reshape(gold.shape)
    rows = []
    for n in self._search.sizes:
      values = {"proxy": proxy, "gold": gold, "tokens": tokens}
      means = {
        name: float(best_of_n.estimate(proxy, value, n).mean())
        for name, value in values.items()
      }
      rows.append({"n": n, "kl": best_of_n.kl(n), **means})
    return rows

  def _score(self, score, unit, prompts, drawn) -> np.ndarray:
    block, parts = 8 * self._programs.config.batch_size, []
    for index in rig_setting.blocks(len(prompts.row), block):
      part = converters.take(prompts, index)
      parts.append(score(unit, part, drawn.response[index], drawn.mask[index]))
    return np.concatenate(parts)[: len(prompts.row)]

  def _make_trainer(self, score, rl: algorithms.RLConfig):
    """(optimizer, collect, update) of a scorer and an objective."""
    policy, sampling = self._programs.policy, self._programs.sampling()
    value = None
    if algorithms.ALGORITHMS[rl.algorithm].needs_value:
      raise ValueError(
        f"RLConfig.algorithm is {rl.algorithm!r}; the rig has no value "
        "network: use rloo or grpo"
      )
    collect = rollout_lib.make_collect(
      policy, value, score, config=rl, sampling=sampling, eos_ids=(1,)
    )
    tx = optimizer_lib.make_joint_optimizer({"policy": self._train.optimizer})
    loss = algorithms.make_loss(policy, value, config=rl, temperature=1.0)
    return tx, collect, step_lib.make_train_step(loss, tx)

  def reinforce(self, setting, score, unit, rl, measure) -> list[Row]:
    """Trains on the proxy to the end; a row per measurement.

    Args:
      setting: the seed's world.
      score: jitted Scorer.
      unit: its parameters.
      rl: objective and algorithm.
      measure: (prompts, Sampled) -> more numbers of a row.
    """
    tx, collect, update = self._trainer(score, rl)
    params = {"policy": jax.tree.map(jnp.copy, setting.policy)}
    state = step_lib.state_from_params(params, tx, self._programs.devices)
    frozen = {"reference": setting.policy, "scorer": unit}
    times, rows = set(self._train.times()), []
    for step in range(self._train.steps + 1):
      if step in times:
        policy = state.params["policy"]
        rows.append(
          {"step": step, **self.measure(setting, policy, score, unit, measure)}
        )
      if step == self._train.steps:
        break
      numbers = np.arange(self._train.prompts) + step * self._train.prompts
      prompts = rig_setting.prompt_rows(setting.world, numbers)
      key = rng.key(setting.seed, "rollout", step)
      batch, _ = collect(state.params, frozen, prompts, key)
      state, _ = update(state, batch, rng.key(setting.seed, "update", step))
    return rows

  def measure(self, setting, policy, score, unit, more) -> Row:
    """Gold, proxy, KL and length of a policy on fresh samples.

    All policies of a seed answer the same prompts with the same keys. The KL
    is the mean over samples of log pi - log ref, exact in expectation.
    """
    rows = np.arange(self._train.evaluation_rows)
    prompts = rig_setting.prompt_rows(setting.world, rows)
    key = rng.key(setting.seed, "measure")
    drawn = self._programs.draw(policy, prompts, key)
    reference = self._programs.log_probs(setting.policy, prompts, drawn)
    gap = (drawn.log_probs - reference) * drawn.mask
    return {
      "kl": float(gap.sum(axis=1).mean()),
      "gold": float(setting.gold(prompts, drawn).mean()),
      "proxy": float(self._score(score, unit, prompts, drawn).mean()),
      "tokens": float(drawn.mask.sum(axis=1).mean()),
      **more(prompts, drawn),
    }
