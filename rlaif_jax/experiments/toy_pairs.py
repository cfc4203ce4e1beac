# SPDX-License-Identifier: Apache-2.0
"""Policies that learn from pairs: offline, with weights, or in rounds."""

from __future__ import annotations

import dataclasses
import functools
from typing import Annotated, Callable, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from rlaif_jax.core import batches
from rlaif_jax.core import protocols
from rlaif_jax.core import rng
from rlaif_jax.core import validation
from rlaif_jax.dpo import alternatives
from rlaif_jax.dpo import model as dpo_model
from rlaif_jax.engine import optimizer as optimizer_lib
from rlaif_jax.engine import scoring
from rlaif_jax.engine import step as step_lib
from rlaif_jax.experiments import toy_numbers
from rlaif_jax.experiments import toy_policies
from rlaif_jax.experiments import toy_rewards
from rlaif_jax.experiments import seed_data
from rlaif_jax.experiments import toy_rows
from rlaif_jax.ops import pair_choice
from rlaif_jax.reward import ensemble as ensemble_lib

Loss = Literal["dpo", "rrhf", "kto", "imitation"]
Weights = Literal["none", "gold", "pointwise", "difference", "shuffled", "top"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToyPairArm(validation.Validated):
  """A policy that learns from pairs.

  Attributes:
    name: in rows, tables and figures.
    dpo: objective of DPO, IPO or cDPO; KTO uses its beta.
    loss: "dpo", "rrhf", "kto", or "imitation" of the preferred responses.
    weights: of pairs (RDO), by the margin of gold, of the pointwise proxy or
      of the difference model. Controls: "shuffled" permutes the pointwise
      weights over pairs; "top" keeps the half with the largest pointwise
      margin.
    judge: "labels" uses the labelled pairs of the seed; "pointwise" (reward
      model) and "pairwise" (difference model) judge samples.
    rounds: of sampling, judging and training; 1 for "labels".
    on_policy: samples the latest policy; False samples the first one.
    reference: of DPO in later rounds, "initial" or "previous"; required if
      rounds > 1.
    choose: see `ops.pair_choice.choose`.
    length_penalty: see `ops.pair_choice.penalized`.
  """

  name: str
  dpo: dpo_model.DPOConfig
  loss: Loss = "dpo"
  weights: Weights = "none"
  judge: Literal["labels", "pointwise", "pairwise"] = "labels"
  rounds: validation.PositiveInt = 1
  on_policy: bool = True
  reference: Literal["", "initial", "previous"] = ""
  choose: Annotated[str, validation.OneOf(pair_choice.CHOICES)] = "max_min"
  length_penalty: validation.NonNegativeFloat = 0.0

  def __post_init__(self):
    super().__post_init__()
    if self.judge == "labels" and self.rounds != 1:
      raise ValueError(
        f"ToyPairArm.rounds is {self.rounds} and judge is 'labels'; rounds "
        "need a judge of samples: 'pointwise' or 'pairwise'"
      )
    if self.judge != "labels" and self.weights != "none":
      raise ValueError(
        f"ToyPairArm.weights is {self.weights!r}; it must be "
        "'none' unless judge is 'labels'"
      )
    if self.rounds > 1 and not self.reference:
      raise ValueError(
        f"ToyPairArm.reference is {self.reference!r}; use 'initial' (the "
        "first policy) or 'previous' with several rounds"
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToyPairConfig:
  """Training on pairs, the same for all arms.

  Attributes:
    optimizer: of the policy.
    epochs: over the pairs of a round.
    batch_size: pairs of an update.
    pairs: of a round in which a proxy judges samples.
    samples: of each prompt in such a round.
    low_temperature: of half of the samples; the others are at temperature 1.
    evaluations: measurements in a round, at even distances.
  """

  optimizer: optimizer_lib.OptimizerConfig
  epochs: float = 4.0
  batch_size: int = 32
  pairs: int = 256
  samples: int = 8
  low_temperature: float = 0.7
  evaluations: int = 6


class PairTrainer:
  """Trains policies on pairs; compiled programs are cached per loss."""

  def __init__(
    self,
    policies: toy_policies.Policies,
    config: ToyPairConfig,
  ):
    programs = policies.programs
    self._programs = programs
    self._policies = policies
    self._config = config
    self._update = functools.cache(self._make_update)

  def _make_update(self, loss: str, dpo: dpo_model.DPOConfig):
    model = self._programs.policy
    losses = {
      "dpo": lambda: dpo_model.make_loss(model, dpo),
      "rrhf": lambda: alternatives.make_rrhf_loss(model),
      "kto": lambda: alternatives.make_kto_loss(model, beta=dpo.beta),
      "imitation": lambda: alternatives.make_imitation_loss(model),
    }
    tx = optimizer_lib.make_optimizer(self._config.optimizer)
    prepare = alternatives.make_kto_prepare(model) if loss == "kto" else None
    return tx, step_lib.make_train_step(losses[loss](), tx, prepare=prepare)

  def stages(
    self, data: seed_data.SeedData, arm: ToyPairArm, proxies: "Judges"
  ) -> dict[str, toy_rows.Rows]:
    """Returns the rows of an arm by stage; the last is the final policy's."""
    return {
      "judges": [judge_numbers(data, proxies)],
      "policy": self.learn(data, arm, proxies),
    }

  def learn(
    self, data: seed_data.SeedData, arm: ToyPairArm, proxies: "Judges"
  ) -> toy_rows.Rows:
    """Trains a policy and returns a row for each measurement."""
    tx, update = self._update(arm.loss, arm.dpo)
    params = jax.tree.map(jnp.copy, data.policy)
    state = step_lib.state_from_params(params, tx, self._programs.devices)
    reference, step, rows = data.policy, 0, []
    proxy = toy_policies.ToyReward(proxies.score, proxies.proxy.unit)
    for number in range(arm.rounds):
      if arm.judge == "labels":
        pairs = weighted_pairs(data, arm, proxies)
      else:
        sampled = state.params if arm.on_policy else data.policy
        pairs = self.sampled_pairs(data, arm, proxies, sampled, number)
      if number and arm.reference == "previous":
        reference = jax.tree.map(jnp.copy, state.params)
      first, second = self._programs.pair_log_probs(reference, pairs)
      examples = pairs.replace(ref_log_probs=np.stack([first, second], axis=-1))
      phase = toy_policies.ToyPhase(
        name="pairs",
        number=number,
        begin=step,
        steps=self._steps(len(pairs.label)),
        batch_size=self._config.batch_size,
        evaluations=self._config.evaluations,
      )
      state, measured = self._policies.train(
        data, state, update, examples, phase, proxy
      )
      rows += measured
      step += phase.steps
    return rows

  def _steps(self, pairs: int) -> int:
    return max(1, round(self._config.epochs * pairs / self._config.batch_size))

  def sampled_pairs(self, data, arm, proxies, policy, number):
    """Samples, judges and pairs responses; drops ties of the judge.

    Other pairs are repeated in place of ties, so every arm has the same number.
    """
    config, world = self._config, data.world
    rows = np.arange(config.pairs) + number * config.pairs
    half = config.samples // 2
    parts = []
    for side, temperature in enumerate((config.low_temperature, 1.0)):
      count = half if side == 0 else config.samples - half
      prompts = seed_data.prompt_rows(world, np.repeat(rows, count))
      prompts = prompts.replace(row=np.arange(len(prompts.row), dtype=np.int32))
      key = rng.key(data.seed, f"round/{side}", number)
      samples = self._programs.draw(policy, prompts, key, temperature)
      joined = scoring.join(prompts, samples.response, samples.mask)
      parts.append(
        jax.tree.map(
          lambda x, c=count: np.asarray(x).reshape(-1, c, x.shape[1]), joined
        )
      )
    group = jax.tree.map(lambda *x: np.concatenate(x, axis=1), *parts)
    scores = proxies.scores(arm.judge, group)
    tokens = group.weights.sum(axis=2)
    scores = pair_choice.penalized(scores, tokens, arm.length_penalty)
    generator = rng.numpy_generator(data.seed, "choose", number)
    best, worst, keep = pair_choice.choose(scores, arm.choose, generator)
    kept = np.flatnonzero(keep)
    if not len(kept):
      raise ValueError(
        f"{arm.name}, seed {data.seed}: all {config.pairs} pairs of round "
        f"{number} are ties of the judge, so the samples of each prompt are "
        "equal; lower ToyPairConfig.epochs or the learning rate"
      )
    index = kept[np.arange(config.pairs) % len(kept)]
    two = np.stack([best[index], worst[index]], axis=1)
    texts = jax.tree.map(lambda x: x[index[:, None], two], group)
    own = texts.weights.shape[2]
    return batches.PairBatch(
      texts=batches.GroupBatch(
        prompt=texts.tokens[:, 0, :-own],
        prompt_valid=texts.valid[:, 0, :-own],
        response=texts.tokens[:, :, -own:],
        response_valid=texts.valid[:, :, -own:],
      ),
      label=np.ones(config.pairs, np.float32),
      weight=np.ones(config.pairs, np.float32),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judges:
  """A reward model and a difference model, trained on the pairs of a seed.

  Attributes:
    proxy: the reward model.
    score: its Scorer.
    rewards: jitted (params, TokenBatch) -> member rewards [k, B].
    difference: jitted (params, first, second) -> margins [B].
    difference_params: parameters of the difference model.
  """

  proxy: toy_rewards.Proxy
  score: protocols.Scorer
  rewards: Callable[[PyTree, batches.TokenBatch], jax.Array]
  difference: Callable[..., jax.Array]
  difference_params: PyTree

  def scores(self, judge: str, group: batches.TokenBatch) -> np.ndarray:
    """Returns a judge's scores [P, K] of responses [P, K, L]."""
    count = group.weights.shape[1]
    if judge == "pointwise":
      return self.pointwise(_rows(group)).reshape(-1, count)
    win_probs = np.full((group.weights.shape[0], count, count), 0.5)
    for a in range(count):
      for b in range(a):
        first, second = (
          jax.tree.map(lambda x, i=i: x[:, i], group) for i in (a, b)
        )
        margin = self.difference(self.difference_params, first, second)
        win_probs[:, a, b] = 1.0 / (1.0 + np.exp(-np.asarray(margin)))
        win_probs[:, b, a] = 1.0 - win_probs[:, a, b]
    return pair_choice.mean_wins(win_probs)

  def pointwise(self, batch: batches.TokenBatch) -> np.ndarray:
    """Returns rewards [B] in units of the first policy."""
    unit = self.proxy.unit
    raw = self.rewards(unit.params, batch)[0]
    return np.asarray((raw - unit.shift[0]) / unit.scale[0])

  def margins(self, kind: str, pairs: batches.PairBatch) -> np.ndarray:
    """Returns margins [B], first minus second, of one of the models."""
    if kind == "difference":
      params = self.difference_params
      return np.asarray(self.difference(params, pairs.first, pairs.second))
    return self.pointwise(pairs.first) - self.pointwise(pairs.second)


def _rows(group: batches.TokenBatch) -> batches.TokenBatch:
  return jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), group)


def make_judges(
  data: seed_data.SeedData, policies: toy_policies.Policies
) -> Judges:
  """Trains both models on the pairs of a seed, with the same updates."""
  rewards = policies.rewards
  single = ensemble_lib.EnsembleConfig()
  return Judges(
    proxy=rewards.train(data, single),
    score=policies.scorer(single, "mean", 0.0),
    rewards=rewards.rewards(single),
    difference=rewards.difference,
    difference_params=rewards.train_difference(data),
  )


def weighted_pairs(
  data: seed_data.SeedData, arm: ToyPairArm, judges: Judges
) -> batches.PairBatch:
  """Returns the labelled pairs with the arm's weights, of mean 1."""
  pairs = data.train
  if arm.weights == "none":
    return pairs
  margins = data.train_margins
  if arm.weights != "gold":
    kind = "difference" if arm.weights == "difference" else "pointwise"
    margins = judges.margins(kind, pairs)
  won = np.where(pairs.label > 0.5, margins, -margins)  # Of the winner.
  kind = arm.weights if arm.weights in pair_choice.WEIGHTS else "margin"
  generator = rng.numpy_generator(data.seed, "shuffled weights")
  return pairs.replace(weight=pair_choice.weights(won, kind, generator))


def judge_numbers(data: seed_data.SeedData, judges: Judges) -> dict[str, float]:
  """Returns each judge's accuracy and correlation with gold on test pairs."""
  result = {}
  for kind in ("pointwise", "difference"):
    margins = judges.margins(kind, data.test)
    result[f"{kind}_accuracy"] = toy_numbers.accuracy(margins, data.test.label)
    result[f"{kind}_correlation"] = float(
      np.corrcoef(margins, data.test_margins)[0, 1]
    )
  return result
