# SPDX-License-Identifier: Apache-2.0
"""The rig: proxies of a known reward, and what chasing them does to it.

For each seed: a world with a gold reward, a first policy, pairs with noisy
labels. For each arm: a proxy trained on those pairs, the best of n by it, and
a policy trained on it without stopping. Gold and proxy against KL are the
result (arXiv:2210.10760; arXiv:2310.02743).
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

from rlaif_jax.core import jsonl
from rlaif_jax.core import preemption
from rlaif_jax.engine import metrics
from rlaif_jax.jobs import rig_policies
from rlaif_jax.jobs import rig_rewards
from rlaif_jax.jobs import rig_setting
from rlaif_jax.ops import ensembles
from rlaif_jax.reward import ensemble as ensemble_lib
from rlaif_jax.rl import algorithms


@dataclasses.dataclass(frozen=True, kw_only=True)
class RigArm:
  """One way of making and reading a proxy.

  Fields:
    name: in rows, tables and figures.
    ensemble: the proxy.
    aggregate: how its members' rewards become one.
    coefficient: of the deviation (lcb) or the variance (uwo).
    rl: objective of the policy; its beta weighs the KL.
  """

  name: str
  ensemble: ensemble_lib.EnsembleConfig
  rl: algorithms.RLConfig
  aggregate: str = "mean"
  coefficient: float = 0.0

  def __post_init__(self):
    if self.aggregate not in ensembles.AGGREGATES:
      raise ValueError(
        f"RigArm.aggregate is {self.aggregate!r}; use one of "
        f"{ensembles.AGGREGATES}"
      )


def run(
  *,
  output_dir: str,
  rig: rig_setting.RigConfig,
  proxies: rig_rewards.ProxyConfig,
  search: rig_policies.SearchConfig,
  train: rig_policies.PolicyConfig,
  arms: tuple[RigArm, ...],
  seeds: tuple[int, ...] = (0, 1, 2, 3, 4),
) -> dict[str, Any]:
  """Runs all arms on all seeds, and writes rows.jsonl.

  A row has the arm, the seed and its stage: `proxy` (accuracies), `search`
  (one per n) or `policy` (one per measurement). costs.jsonl has seconds and
  bytes. An arm of a seed is written when it is finished; a second start goes
  on with the next.

  Args:
    output_dir: where everything goes.
    rig: world, models and data.
    proxies: how they are trained.
    search: best of n.
    train: of policies.
    arms: the arms; the first is the one that others are compared with.
    seeds: of worlds, data and training alike.
  """
  names = [arm.name for arm in arms]
  if len(set(names)) < len(names):
    raise ValueError(f"rig.arms have the names {names}; each must be its own")
  # 1. What was finished before.
  directory = pathlib.Path(output_dir)
  done = finished(directory)
  units = [(seed, arm) for seed in seeds for arm in arms]
  left = [unit for unit in units if (unit[0], unit[1].name) not in done]
  progress = metrics.Progress("rig", len(units), done=len(done), unit="arms")
  # 2. Programs are compiled once for all seeds.
  programs = rig_setting.Programs(rig)
  rewards = rig_rewards.Trainer(programs, proxies)
  policies = rig_policies.Policies(programs, rewards, search, train)
  setting, trained = None, {}
  for number, (seed, arm) in enumerate(left):
    if preemption.requested():
      raise preemption.Preempted(f"rig: stopped before {arm.name}, {seed}")
    # 3. The seed's world, and proxies that arms share.
    if setting is None or setting.seed != seed:
      setting, trained = rig_setting.make_setting(programs, seed), {}
    if arm.ensemble not in trained:
      trained[arm.ensemble] = rewards.train(setting, arm.ensemble)
    proxy = trained[arm.ensemble]
    # 4. The arm, written whole.
    rows = arm_rows(policies, setting, arm, proxy)
    costs = {"arm": arm.name, "seed": seed, **proxy.costs}
    append(directory / "costs.jsonl", [costs])
    append(directory / "rows.jsonl", rows)
    progress.update(
      len(done) + number + 1, f"{arm.name}, gold {rows[-1]['gold']:.2f}"
    )
  return {
    "rows": str(directory / "rows.jsonl"),
    "arms": names,
    "seeds": list(seeds),
  }


def arm_rows(
  policies: rig_policies.Policies,
  setting: rig_setting.Setting,
  arm: RigArm,
  proxy: rig_rewards.Proxy,
) -> list[dict[str, Any]]:
  """All rows of an arm on a seed; the policy's last measurement is last."""
  score = policies.scorer(arm.ensemble, arm.aggregate, arm.coefficient)

  def deviation(prompts, drawn):
    u = policies.deviation(arm.ensemble, proxy.unit, prompts, drawn)
    return {"deviation": u}

  stages = {
    "proxy": [proxy.numbers],
    "search": policies.best_of_n(setting, score, proxy.unit),
    "policy": policies.reinforce(setting, score, proxy.unit, arm.rl, deviation),
  }
  return [
    {"arm": arm.name, "seed": setting.seed, "stage": stage, **row}
    for stage, rows in stages.items()
    for row in rows
  ]


def finished(directory: pathlib.Path) -> set[tuple[int, str]]:
  """(seed, arm) of all rows that are there."""
  path = directory / "rows.jsonl"
  if not path.exists():
    return set()
  return {(row["seed"], row["arm"]) for row in jsonl.parse_rows(path, dict)}


def append(path: pathlib.Path, rows: list[dict[str, Any]]) -> None:
  """Adds rows to a file that is seen with all of them or with none."""
  before = path.read_text("utf-8") if path.exists() else ""
  text = "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows)
  jsonl.write_text(path, before + text)
