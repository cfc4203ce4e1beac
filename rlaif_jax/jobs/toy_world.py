# SPDX-License-Identifier: Apache-2.0
"""The rig: proxies of a known reward, and what chasing them does to it.

For each seed: a world with a gold reward, a first policy, pairs with noisy
labels. For each arm: a proxy trained on those pairs, the best of n by it, and
a policy trained on it without stopping. Gold and proxy against KL are the
result (arXiv:2210.10760; arXiv:2310.02743). Arms that learn from the pairs
directly stand beside them (arXiv:2305.18290).
"""

from __future__ import annotations

import dataclasses
from typing import Any

from rlaif_jax.experiments import toy_labels
from rlaif_jax.experiments import toy_pairs
from rlaif_jax.experiments import toy_policies
from rlaif_jax.experiments import toy_rewards
from rlaif_jax.experiments import toy_rows
from rlaif_jax.experiments import seed_data
from rlaif_jax.experiments import toy_teachers
from rlaif_jax.ops import ensembles
from rlaif_jax.reward import ensemble as ensemble_lib
from rlaif_jax.rl import algorithms

REWARDS = ("proxy", "gold")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RigArm:
  """One way of making and reading a proxy.

  Fields:
    name: in rows, tables and figures.
    ensemble: the proxy.
    rl: objective of the policy; its beta weighs the KL. None trains no policy:
      the best of n is all there is.
    aggregate: how its members' rewards become one.
    coefficient: of the deviation (lcb) or the variance (uwo).
    reward: what is searched by and trained on: the "proxy", or "gold" itself,
      of which the proxy is then only reported.
    labels: who labels the proxy's pairs; None: as `RigConfig` says.
  """

  name: str
  ensemble: ensemble_lib.EnsembleConfig
  rl: algorithms.RLConfig | None
  aggregate: str = "mean"
  coefficient: float = 0.0
  reward: str = "proxy"
  labels: toy_labels.ToyLabelsConfig | None = None

  def __post_init__(self):
    if self.aggregate not in ensembles.AGGREGATES:
      raise ValueError(
        f"RigArm.aggregate is {self.aggregate!r}; use one of "
        f"{ensembles.AGGREGATES}"
      )
    if self.reward not in REWARDS:
      raise ValueError(
        f"RigArm.reward is {self.reward!r}; use one of {REWARDS}"
      )


def run(
  *,
  output_dir: str,
  rig: seed_data.RigConfig,
  proxies: toy_rewards.ProxyConfig,
  search: toy_policies.SearchConfig,
  train: toy_policies.PolicyConfig,
  arms: tuple[RigArm | toy_pairs.PairArm | toy_teachers.TeacherArm, ...],
  pairs: toy_pairs.PairTrainConfig | None = None,
  teachers: toy_teachers.TeachersConfig | None = None,
  seeds: tuple[int, ...] = (0, 1, 2, 3, 4),
) -> dict[str, Any]:
  """Runs all arms on all seeds, and writes rows.jsonl.

  A row has the arm, the seed and its stage: `proxy` (accuracies), `search`
  (one per n), `policy` (one per measurement) or `judges` (of a PairArm).
  costs.jsonl has seconds and bytes. An arm of a seed is written when it is
  finished; a second start goes on with the next.

  Args:
    output_dir: where everything goes.
    rig: world, models and data.
    proxies: how they are trained.
    search: best of n.
    train: of policies.
    arms: the arms; the first is the one that others are compared with.
    pairs: training of the arms that learn from pairs.
    teachers: those of the arms that learn from a teacher.
    seeds: of worlds, data and training alike.
  """
  for name, config, kind in (
    ("pairs", pairs, toy_pairs.PairArm),
    ("teachers", teachers, toy_teachers.TeacherArm),
  ):
    if config is None and any(isinstance(arm, kind) for arm in arms):
      raise ValueError(
        f"toy_world.{name} is None, and an arm is a {kind.__name__}; bind "
        f"toy_world.{name}; toy_frontier.gin and toy_teachers.gin show how"
      )
  # Programs are compiled once for all seeds.
  policies = toy_policies.make_policies(rig, proxies, search, train)
  learner = toy_pairs.PairTrainer(policies, pairs) if pairs else None
  student = toy_teachers.Student(policies, teachers) if teachers else None

  def of_seed(seed):
    shared = Shared(policies, seed_data.make_setting(policies.programs, seed))

    def of_arm(arm):
      if isinstance(arm, toy_pairs.PairArm):
        return learner.stages(shared.setting, arm, shared.judges()), []
      if isinstance(arm, toy_teachers.TeacherArm):
        return student.stages(shared.setting, arm), []
      proxy = shared.proxy(arm.ensemble, arm.labels)
      return stages(policies, shared.setting, arm, proxy), [proxy.costs]

    return of_arm

  return toy_rows.run_arms(
    "toy_world", output_dir=output_dir, arms=arms, seeds=seeds, of_seed=of_seed
  )


class Shared:
  """What the arms of a seed share: each is made when it is first asked for."""

  def __init__(
    self, policies: toy_policies.Policies, setting: seed_data.Setting
  ):
    self.setting = setting
    self._policies = policies
    self._proxies: dict[Any, toy_rewards.Proxy] = {}
    self._judges: toy_pairs.Judges | None = None

  def proxy(
    self,
    ensemble: ensemble_lib.EnsembleConfig,
    labels: toy_labels.ToyLabelsConfig | None,
  ) -> toy_rewards.Proxy:
    """The ensemble, trained on the setting's pairs and somebody's labels."""
    trainer, key = self._policies.rewards, (ensemble, labels)
    if key not in self._proxies:
      self._proxies[key] = (
        trainer.train(self.setting, ensemble)
        if labels is None
        else toy_labels.train(trainer, self.setting, ensemble, labels)
      )
    return self._proxies[key]

  def judges(self) -> toy_pairs.Judges:
    """Of pairs."""
    if self._judges is None:
      self._judges = toy_pairs.make_judges(self.setting, self._policies)
    return self._judges


def stages(
  policies: toy_policies.Policies,
  setting: seed_data.Setting,
  arm: RigArm,
  proxy: toy_rewards.Proxy,
) -> dict[str, toy_rows.Rows]:
  """All rows of an arm by stage; the policy's last measurement is last."""
  score = policies.scorer(arm.ensemble, arm.aggregate, arm.coefficient)
  reported = toy_policies.Reward(score, proxy.unit)
  reward = reported
  if arm.reward == "gold":
    reward = toy_policies.gold_reward(setting)

  def deviation(prompts, drawn):
    u = policies.deviation(arm.ensemble, proxy.unit, prompts, drawn)
    return {"deviation": u}

  found = {
    "proxy": [proxy.numbers],
    "search": policies.best_of_n(setting, reward),
  }
  if arm.rl is not None:
    found["policy"] = policies.reinforce(
      setting, reward, arm.rl, proxy=reported, more=deviation
    )
  return found
