# SPDX-License-Identifier: Apache-2.0
"""The grid of judges and its checks."""

from __future__ import annotations

import pytest

from rlaif_jax.labeling import judge_grid
from rlaif_jax.labeling import likelihood_judge
from rlaif_jax.labeling import pairwise_judge


def test_judges_follow_the_papers_grid():
  grid = judge_grid.JudgeGridConfig(
    shots=(0, 1, 2, 8),
    chain_of_thought=(False, True),
    exemplar_trials=10,
    likelihoods=("pmi",),
  )
  found = dict(grid.judges("summary"))
  assert len(found) == 2 * 2 * 4 + 10 + 1
  best = found["summary_detailed + CoT 0-shot"]
  assert best == pairwise_judge.PairwiseJudgeConfig(
    template="summary_detailed", num_exemplars=0, chain_of_thought=True
  )
  trials = {found[f"summary_base 1-shot, exemplar {i}"] for i in range(10)}
  assert {trial.exemplar_seed for trial in trials} == set(range(10))
  assert isinstance(found["pmi"], likelihood_judge.LikelihoodJudgeConfig)
  for config in found.values():
    assert config.fingerprint("backend")


def test_wrong_grids_are_named():
  with pytest.raises(ValueError, match="select_share is 1"):
    judge_grid.JudgeGridConfig(select_share=1.0)
  with pytest.raises(ValueError, match="set one of them"):
    judge_grid.JudgeGridConfig(templates=())
  with pytest.raises(ValueError, match="set a share of pairs"):
    judge_grid.JudgeGridConfig(only_best_on_rest=True, select_share=0.0)
