# SPDX-License-Identifier: Apache-2.0
"""Policies of the rig that learn from pairs: offline, weighted, in rounds."""

from __future__ import annotations

import dataclasses
import functools
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from rlaif_jax.core import batches
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
from rlaif_jax.ops import pair_choice
from rlaif_jax.reward import ensemble as ensemble_lib

Loss = Literal["dpo", "rrhf", "kto", "imitation"]
Weights = Literal["none", "gold", "pointwise", "difference", "shuffled", "top"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairArm(validation.Validated):
  """One way of learning from pairs.

  Fields:
    name: in rows, tables and figures.
    dpo: its beta is also KTO's.
    loss: "dpo" (with IPO and cDPO by its config), "rrhf", "kto", or
      "imitation" of the preferred ones.
    weights: of pairs, RDO's: by the gap of gold, of the pointwise proxy or of
      the difference model. Controls: the pointwise weights "shuffled" over the
      pairs, and the half of the pairs with the largest pointwise gap ("top").
    judge: who prefers: the rig's labels of its own pairs, or a proxy of
      samples ("pointwise" reward, "pairwise" difference model).
    rounds: of sampling, judging and learning, if a proxy judges.
    on_policy: samples are the latest policy's; False takes the first's.
    reference: of DPO in later rounds, "initial" or "previous"; has to be said
      where there are rounds.
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
        f"PairArm.rounds is {self.rounds}, and labels are there but once; "
        "rounds need a judge: 'pointwise' or 'pairwise'"
      )
    if self.judge != "labels" and self.weights != "none":
      raise ValueError(
        f"PairArm.weights is {self.weights!r}; only labelled pairs are weighed"
      )
    if self.rounds > 1 and not self.reference:
      raise ValueError(
        f"PairArm.reference is {self.reference!r}; with rounds say 'initial' "
        "(the first policy, as the objective has it) or 'previous'"
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairTrainConfig:
  """Training on pairs; arms of one rig take the same pairs and updates.

  `pairs` and `samples` are those of a round: the rig's labelled pairs are as
  many as it says itself. Half of the samples are drawn at `cool`. A policy is
  measured `evaluations` times in a round, at even distances.
  """

  optimizer: optimizer_lib.OptimizerConfig
  epochs: float = 4.0
  batch_size: int = 32
  pairs: int = 256
  samples: int = 8
  cool: float = 0.7
  evaluations: int = 6


class PairTrainer:
  """Trains arms on pairs; compiled programs are kept per loss."""

  def __init__(
    self,
    policies: toy_policies.Policies,
    config: PairTrainConfig,
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
    return tx, step_lib.make_train_step(losses[loss](), tx)

  def stages(
    self, setting: seed_data.Setting, arm: PairArm, proxies: "Judges"
  ) -> dict[str, list[dict[str, Any]]]:
    """All rows of an arm by stage; the policy's last measurement is last."""
    return {
      "judges": [judge_numbers(setting, proxies)],
      "policy": self.learn(setting, arm, proxies),
    }

  def learn(
    self, setting: seed_data.Setting, arm: PairArm, proxies: "Judges"
  ) -> list[dict[str, Any]]:
    """A row per measurement; gold, KL to the first policy, proxy, length."""
    tx, update = self._update(arm.loss, arm.dpo)
    params = jax.tree.map(jnp.copy, setting.policy)
    state = step_lib.state_from_params(params, tx, self._programs.devices)
    reference, step, rows = setting.policy, 0, []
    proxy = toy_policies.Reward(proxies.score, proxies.proxy.unit)
    for number in range(arm.rounds):
      if arm.judge == "labels":
        pairs = weighted_pairs(setting, arm, proxies)
      else:
        sampled = state.params if arm.on_policy else setting.policy
        pairs = self.sampled_pairs(setting, arm, proxies, sampled, number)
      if number and arm.reference == "previous":
        reference = jax.tree.map(jnp.copy, state.params)
      first, second = self._programs.pair_log_probs(reference, pairs)
      data = pairs.replace(ref_log_probs=np.stack([first, second], axis=-1))
      course = toy_policies.Course(
        stream="pairs",
        phase=number,
        begin=step,
        steps=self._steps(len(pairs.label)),
        batch_size=self._config.batch_size,
        evaluations=self._config.evaluations,
      )
      state, more = self._policies.follow(
        setting, state, update, data, course, proxy
      )
      rows += more
      step += course.steps
    return rows

  def _steps(self, pairs: int) -> int:
    return max(1, round(self._config.epochs * pairs / self._config.batch_size))

  def sampled_pairs(self, setting, arm, proxies, policy, number):
    """Winners and losers among fresh samples, ties of the judge dropped.

    Where a tie is dropped another pair stands twice, so that every arm has
    the same number.
    """
    config, world = self._config, setting.world
    rows = np.arange(config.pairs) + number * config.pairs
    half = config.samples // 2
    parts = []
    for side, temperature in enumerate((config.cool, 1.0)):
      count = half if side == 0 else config.samples - half
      prompts = seed_data.prompt_rows(world, np.repeat(rows, count))
      prompts = prompts.replace(row=np.arange(len(prompts.row), dtype=np.int32))
      key = rng.key(setting.seed, f"round/{side}", number)
      drawn = self._programs.draw(policy, prompts, key, temperature)
      joined = scoring.join(prompts, drawn.response, drawn.mask)
      parts.append(
        jax.tree.map(
          lambda x, c=count: np.asarray(x).reshape(-1, c, x.shape[1]), joined
        )
      )
    group = jax.tree.map(lambda *x: np.concatenate(x, axis=1), *parts)
    scores = proxies.scores(arm.judge, group)
    tokens = group.weights.sum(axis=2)
    scores = pair_choice.penalized(scores, tokens, arm.length_penalty)
    generator = rng.numpy_generator(setting.seed, "choose", number)
    best, worst, keep = pair_choice.choose(scores, arm.choose, generator)
    kept = np.flatnonzero(keep)
    if not len(kept):
      raise ValueError(
        f"{arm.name}, seed {setting.seed}: all {config.pairs} pairs of round "
        f"{number} are ties of the judge; the policy says one thing only. "
        "Lower PairTrainConfig's epochs or learning rate"
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
  """What a seed's arms share: a reward model, and a difference model.

  proxy, score: one reward model trained on the rig's pairs, and its Scorer.
  rewards: jitted (params, TokenBatch) -> member rewards.
  difference: jitted (params, first, second) -> [B].
  difference_params: trained on the same pairs.
  """

  proxy: toy_rewards.Proxy
  score: Any
  rewards: Any
  difference: Any
  difference_params: Any

  def scores(self, judge: str, group: batches.TokenBatch) -> np.ndarray:
    """[P, K] of groups of responses [P, K, L]."""
    count = group.weights.shape[1]
    if judge == "pointwise":
      return self.pointwise(_rows(group)).reshape(-1, count)
    chances = np.full((group.weights.shape[0], count, count), 0.5)
    for a in range(count):
      for b in range(a):
        first, second = (
          jax.tree.map(lambda x, i=i: x[:, i], group) for i in (a, b)
        )
        gap = self.difference(self.difference_params, first, second)
        chances[:, a, b] = 1.0 / (1.0 + np.exp(-np.asarray(gap)))
        chances[:, b, a] = 1.0 - chances[:, a, b]
    return pair_choice.mean_wins(chances)

  def pointwise(self, batch: batches.TokenBatch) -> np.ndarray:
    """[B] rewards in units of the first policy."""
    unit = self.proxy.unit
    raw = self.rewards(unit.params, batch)[0]
    return np.asarray((raw - unit.shift[0]) / unit.scale[0])

  def gaps(self, kind: str, pairs: batches.PairBatch) -> np.ndarray:
    """First minus second [B], by one of the two models."""
    if kind == "difference":
      params = self.difference_params
      return np.asarray(self.difference(params, pairs.first, pairs.second))
    return self.pointwise(pairs.first) - self.pointwise(pairs.second)


def _rows(group: batches.TokenBatch) -> batches.TokenBatch:
  return jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), group)


def make_judges(
  setting: seed_data.Setting, policies: toy_policies.Policies
) -> Judges:
  """Trains both on the setting's pairs, with the same updates."""
  rewards = policies.rewards
  single = ensemble_lib.EnsembleConfig()
  return Judges(
    proxy=rewards.train(setting, single),
    score=policies.scorer(single, "mean", 0.0),
    rewards=rewards.rewards(single),
    difference=rewards.difference,
    difference_params=rewards.train_difference(setting),
  )


def weighted_pairs(
  setting: seed_data.Setting, arm: PairArm, judges: Judges
) -> batches.PairBatch:
  """The rig's labelled pairs with the arm's weights, of mean 1."""
  pairs = setting.train
  if arm.weights == "none":
    return pairs
  gaps = setting.train_gaps
  if arm.weights != "gold":
    kind = "difference" if arm.weights == "difference" else "pointwise"
    gaps = judges.gaps(kind, pairs)
  won = np.where(pairs.label > 0.5, gaps, -gaps)  # In the winner's favour.
  kind = arm.weights if arm.weights in pair_choice.WEIGHTS else "gap"
  generator = rng.numpy_generator(setting.seed, "shuffled weights")
  return pairs.replace(weight=pair_choice.weights(won, kind, generator))


def judge_numbers(
  setting: seed_data.Setting, judges: Judges
) -> dict[str, float]:
  """Accuracy on test pairs and correlation of gaps with gold's sign."""
  result = {}
  for kind in ("pointwise", "difference"):
    gaps = judges.gaps(kind, setting.test)
    result[f"{kind}_accuracy"] = toy_numbers.accuracy(gaps, setting.test.label)
    result[f"{kind}_correlation"] = float(
      np.corrcoef(gaps, setting.test_gaps)[0, 1]
    )
  return result
