# SPDX-License-Identifier: Apache-2.0
"""Learning from pairs on the rig: DPO and its kin, weighted, in rounds.

The rows are those of `rig`, so one page shows both. All arms of a seed take
the same labels, pairs and updates.
"""

from __future__ import annotations

from typing import Any

from rlaif_jax.jobs import rig_pairs
from rlaif_jax.jobs import rig_policies
from rlaif_jax.jobs import rig_rewards
from rlaif_jax.jobs import rig_rows
from rlaif_jax.jobs import rig_setting


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
  policies = rig_policies.make_policies(
    rig, proxies, rig_policies.SearchConfig(), measure
  )
  trainer = rig_pairs.PairTrainer(policies, train)

  def of_seed(seed):
    setting = rig_setting.make_setting(policies.programs, seed)
    judges = rig_pairs.make_judges(setting, policies)
    return lambda arm: (trainer.stages(setting, arm, judges), [])

  return rig_rows.run_arms(
    "rig_pairs", output_dir=output_dir, arms=arms, seeds=seeds, of_seed=of_seed
  )
