# SPDX-License-Identifier: Apache-2.0
"""Learning from pairs on the rig: DPO and its kin, weighted, in rounds.

The rows are those of `rig`, so one page shows both. All arms of a seed take
the same labels, pairs and updates.
"""

from __future__ import annotations

import pathlib
from typing import Any

from rlaif_jax.core import preemption
from rlaif_jax.engine import metrics
from rlaif_jax.jobs import rig_pairs
from rlaif_jax.jobs import rig_policies
from rlaif_jax.jobs import rig_rewards
from rlaif_jax.jobs import rig_setting
from rlaif_jax.jobs import run_rig


def run(
  *,
  output_dir: str,
  rig: rig_setting.RigConfig,
  proxies: rig_rewards.ProxyConfig,
  measure: rig_policies.PolicyConfig,
  train: rig_pairs.PairTrainConfig,
  arms: tuple[rig_pairs.PairArm, ...],
  seeds: tuple[int, ...] = (0, 1, 2, 3, 4),
) -> dict[str, Any]:
  """Runs all arms on all seeds, and writes rows.jsonl; see `rig`.

  Args:
    output_dir: where everything goes; a second start goes on there.
    rig: world, models and data.
    proxies: how the reward and the difference model are trained.
    measure: how policies are measured; nothing here trains by it.
    train: on pairs.
    arms: the arms; the first is the one that others are compared with.
    seeds: of worlds, data and training alike.
  """
  names = [arm.name for arm in arms]
  if len(set(names)) < len(names):
    raise ValueError(
      f"rig_pairs.arms have the names {names}; each must be its own"
    )
  directory = pathlib.Path(output_dir)
  done = run_rig.finished(directory)
  units = [(seed, arm) for seed in seeds for arm in arms]
  left = [unit for unit in units if (unit[0], unit[1].name) not in done]
  progress = metrics.Progress(
    "rig_pairs", len(units), done=len(done), unit="arms"
  )
  programs = rig_setting.Programs(rig)
  rewards = rig_rewards.Trainer(programs, proxies)
  policies = rig_policies.Policies(
    programs, rewards, rig_policies.SearchConfig(), measure
  )
  trainer = rig_pairs.PairTrainer(programs, rewards, policies, train)
  setting, judges = None, None
  for number, (seed, arm) in enumerate(left):
    if preemption.requested():
      raise preemption.Preempted(
        f"rig_pairs: stopped before {arm.name}, {seed}"
      )
    if setting is None or setting.seed != seed:
      setting = rig_setting.make_setting(programs, seed)
      judges = rig_pairs.make_judges(setting, rewards, policies)
    base = {"arm": arm.name, "seed": seed}
    rows = [
      {**base, "stage": "judges", **rig_pairs.judge_numbers(setting, judges)}
    ]
    rows += [
      {**base, "stage": "policy", **row}
      for row in trainer.learn(setting, arm, judges)
    ]
    run_rig.append(directory / "rows.jsonl", rows)
    progress.update(
      len(done) + number + 1, f"{arm.name}, gold {rows[-1]['gold']:.2f}"
    )
  return {
    "rows": str(directory / "rows.jsonl"),
    "arms": names,
    "seeds": list(seeds),
  }
