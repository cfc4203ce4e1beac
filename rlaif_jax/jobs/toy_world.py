# SPDX-License-Identifier: Apache-2.0
"""Overoptimization of learned rewards in a toy world with a known reward.

Each seed draws a world with a true reward (gold), a first policy and pairs
with noisy labels. Each arm trains a reward model (proxy) on those pairs,
searches the best of n by it, and trains a policy on it without early stopping.
The results are gold and proxy against KL (arXiv:2210.10760; arXiv:2310.02743).
Other arms learn from the pairs directly (arXiv:2305.18290) or from a teacher.
"""

from __future__ import annotations


from rlaif_jax.core import records
from rlaif_jax.experiments import seed_data
from rlaif_jax.experiments import toy_arms
from rlaif_jax.experiments import toy_pairs
from rlaif_jax.experiments import toy_policies
from rlaif_jax.experiments import toy_rewards
from rlaif_jax.experiments import toy_rows
from rlaif_jax.experiments import toy_teachers


def run(
  *,
  output_dir: str,
  toy: seed_data.ToyConfig,
  proxies: toy_rewards.ToyProxyConfig,
  search: toy_policies.ToySearchConfig,
  policies: toy_policies.ToyPolicyConfig,
  arms: tuple[
    toy_arms.ToyProxyArm | toy_pairs.ToyPairArm | toy_teachers.ToyTeacherArm,
    ...,
  ],
  pairs: toy_pairs.ToyPairConfig | None = None,
  teachers: toy_teachers.ToyTeacherConfig | None = None,
  seeds: tuple[int, ...] = (0, 1, 2, 3, 4),
) -> records.Row:
  """Runs all arms on all seeds, and writes rows.jsonl and costs.jsonl.

  A row has the arm, the seed and its stage: `proxy` (accuracies), `search`
  (one per n), `policy` (one per measurement) or `judges` (of a ToyPairArm).
  costs.jsonl has seconds and bytes. Rows are written arm by arm; a second
  start runs the arms that are missing.

  Args:
    output_dir: directory of the two files.
    toy: world, models and data.
    proxies: training of the reward models.
    search: best of n.
    policies: training and measurement of policies.
    arms: methods to compare; the first is the baseline of the report.
    pairs: training of the arms that learn from pairs.
    teachers: training of the arms that learn from a teacher.
    seeds: of worlds, data and training.
  """
  programs = toy_policies.make_policies(toy, proxies, search, policies)
  runner = toy_arms.ArmRunner(programs, arms, pairs, teachers)
  return toy_rows.run_arms(
    output_dir=output_dir, arms=arms, seeds=seeds, open_seed=runner.open_seed
  )
