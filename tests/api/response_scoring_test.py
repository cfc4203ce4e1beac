# SPDX-License-Identifier: Apache-2.0
"""A judge with its labeler, or a reward, as one that scores responses."""

from __future__ import annotations

import pytest

from rlaif_jax.api import labelers
from rlaif_jax.api import response_scoring
from rlaif_jax.api import reward_loading
from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.labeling import pointwise_judge
from tests import tiny_rubric

RATING = pointwise_judge.PointwiseJudgeConfig(
  template="docstring_rating", max_context_tokens=150
)
EXAMPLE = records.Example(id="e/0", context="the cat sat", response="a cat")


def load(world, judge=None, reward=None, policy_dir="", reference_file=""):
  return response_scoring.load(
    judge,
    labelers.LabelerConfig(labeler_dir=str(world / "sft" / "model")),
    reference_file,
    reward,
    policy_dir,
    journal_file="",
    quarantine=jsonl.Quarantine(),
  )


def test_a_judge_and_a_reward_of_one_labeler_agree(world):
  model = str(world / "sft" / "model")
  judged = load(world, judge=RATING)
  rewarded = load(
    world,
    reward=reward_loading.ScorerConfig(
      labeler_dir=model, rating_template="docstring_rating"
    ),
    policy_dir=model,
  )
  (one,), _ = judged.rate([EXAMPLE])
  (two,), usage = rewarded.rate([EXAMPLE])
  # The reward is the score, from 1 to 10, as a number from -1 to 1.
  assert two.score == pytest.approx((one.score - 5.5) / 4.5, abs=1e-4)
  assert two.id == "e/0" and usage.requests == 0
  assert (judged.kind, rewarded.kind) == ("pointwise", "reward")
  assert judged.name == rewarded.name
  assert judged.fingerprint != rewarded.fingerprint


def test_one_way_to_score(world):
  with pytest.raises(ValueError, match="set exactly one"):
    load(world)
  with pytest.raises(ValueError, match="set it with a reward"):
    load(world, judge=RATING, policy_dir="anything")
  with pytest.raises(ValueError, match="with a PairwiseJudgeConfig only"):
    load(world, judge=RATING, reference_file="humans.jsonl")


def test_a_rubric_scores(world, tmp_path):
  found = load(world, judge=tiny_rubric.write(tmp_path))
  (rating,), usage = found.rate([EXAMPLE])
  assert found.kind == "rubric" and usage.requests == 2
  yes, no = rating.probabilities
  assert rating.score == pytest.approx((2 * yes + 1 - no) / 3)
