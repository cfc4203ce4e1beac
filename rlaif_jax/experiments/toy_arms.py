# SPDX-License-Identifier: Apache-2.0
"""Arms that learn from a reward model, and the runner of all arms of a seed."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Callable, Literal, Sequence

from rlaif_jax.core import validation
from rlaif_jax.experiments import seed_data
from rlaif_jax.experiments import toy_labels
from rlaif_jax.experiments import toy_pairs
from rlaif_jax.experiments import toy_policies
from rlaif_jax.experiments import toy_rewards
from rlaif_jax.experiments import toy_rows
from rlaif_jax.experiments import toy_teachers
from rlaif_jax.ops import ensembles
from rlaif_jax.reward import ensemble as ensemble_lib
from rlaif_jax.rl import algorithms


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToyProxyArm(validation.Validated):
  """Best-of-n search and reinforcement learning with one proxy reward.

  Attributes:
    name: in rows, tables and figures.
    ensemble: reward model or models that make the proxy.
    rl: objective of the policy; None trains no policy and only searches.
    aggregate: how the members' rewards become one.
    coefficient: of the standard deviation (lcb) or the variance (uwo).
    reward: "proxy" searches by the proxy and trains on it; "gold" uses the
      true reward and only reports the proxy.
    labels: labelers of the proxy's pairs; None uses the labels of `ToyConfig`.
  """

  name: str
  ensemble: ensemble_lib.EnsembleConfig
  rl: algorithms.RLConfig | None
  aggregate: Annotated[str, validation.OneOf(ensembles.AGGREGATES)] = "mean"
  coefficient: float = 0.0
  reward: Literal["proxy", "gold"] = "proxy"
  labels: toy_labels.ToyLabelsConfig | None = None


ToyArm = ToyProxyArm | toy_pairs.ToyPairArm | toy_teachers.ToyTeacherArm


class ArmRunner:
  """Runs arms of any kind; programs compile once for all seeds.

  Args:
    policies: programs that search and train.
    arms: all arms of the experiment.
    pairs: training of the arms that learn from pairs.
    teachers: training of the arms that learn from a teacher.

  Raises:
    ValueError: an arm needs `pairs` or `teachers`, which is None.
  """

  def __init__(
    self,
    policies: toy_policies.Policies,
    arms: Sequence[ToyArm],
    pairs: toy_pairs.ToyPairConfig | None,
    teachers: toy_teachers.ToyTeacherConfig | None,
  ):
    for name, config, kind in (
      ("pairs", pairs, toy_pairs.ToyPairArm),
      ("teachers", teachers, toy_teachers.ToyTeacherArm),
    ):
      if config is None and any(isinstance(arm, kind) for arm in arms):
        raise ValueError(
          f"toy_world.{name} is None, and an arm is a {kind.__name__}; bind "
          f"toy_world.{name} as toy_frontier.gin and toy_teachers.gin do"
        )
    self._policies = policies
    self._learner = toy_pairs.PairTrainer(policies, pairs) if pairs else None
    self._student = (
      toy_teachers.Student(policies, teachers) if teachers else None
    )

  def open_seed(self, seed: int) -> Callable[[ToyArm], toy_rows.ArmResult]:
    """Makes a seed's data and returns the function that runs one arm on it.

    Arms of a seed share its data, its proxies and its judges.
    """
    data = seed_data.make_seed_data(self._policies.programs, seed)
    proxies: dict[object, toy_rewards.Proxy] = {}
    judges: list[toy_pairs.Judges] = []

    def proxy_of(arm: ToyProxyArm) -> toy_rewards.Proxy:
      key = (arm.ensemble, arm.labels)
      if key not in proxies:
        proxies[key] = self._train_proxy(data, arm)
      return proxies[key]

    def run(arm: ToyArm) -> toy_rows.ArmResult:
      if isinstance(arm, toy_teachers.ToyTeacherArm):
        return self._student.stages(data, arm), []
      if isinstance(arm, toy_pairs.ToyPairArm):
        if not judges:
          judges.append(toy_pairs.make_judges(data, self._policies))
        return self._learner.stages(data, arm, judges[0]), []
      proxy = proxy_of(arm)
      return proxy_stages(self._policies, data, arm, proxy), [proxy.costs]

    return run

  def _train_proxy(
    self, data: seed_data.SeedData, arm: ToyProxyArm
  ) -> toy_rewards.Proxy:
    trainer = self._policies.rewards
    if arm.labels is None:
      return trainer.train(data, arm.ensemble)
    return toy_labels.train(trainer, data, arm.ensemble, arm.labels)


def proxy_stages(
  policies: toy_policies.Policies,
  data: seed_data.SeedData,
  arm: ToyProxyArm,
  proxy: toy_rewards.Proxy,
) -> dict[str, toy_rows.Rows]:
  """Returns the rows of an arm by stage: proxy, search and policy."""
  score = policies.scorer(arm.ensemble, arm.aggregate, arm.coefficient)
  reported = toy_policies.ToyReward(score, proxy.unit)
  reward = reported
  if arm.reward == "gold":
    reward = toy_policies.gold_reward(data)

  def deviation(prompts, samples):
    u = policies.deviation(arm.ensemble, proxy.unit, prompts, samples)
    return {"deviation": u}

  rows = {
    "proxy": [proxy.numbers],
    "search": policies.best_of_n(data, reward),
  }
  if arm.rl is not None:
    rows["policy"] = policies.reinforce(
      data, reward, arm.rl, proxy=reported, extras=deviation
    )
  return rows
