# SPDX-License-Identifier: Apache-2.0
"""A rubric as the reward of a policy run."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from rlaif_jax.api import judge_rewards
from rlaif_jax.api import reward_parts
from rlaif_jax.api import labelers
from rlaif_jax.core import records
from rlaif_jax.data import converters
from rlaif_jax.engine import mesh
from rlaif_jax.labeling import rubric_judge
from rlaif_jax.labeling import rubrics
from rlaif_jax.model_io import pretrained
from tests import tiny_rubric

CONTEXTS = ("the cat sat", "one red hat")
TEXTS = ("ten dogs", "a cat")
DEVICES = mesh.make_mesh("data:-1", jax.devices()[:1])


@pytest.fixture(name="policy", scope="module")
def fixture_policy(world):
  return pretrained.load(str(world / "sft" / "model"), "language", DEVICES)


def scorer(world, judge, **changes):
  return judge_rewards.JudgeRewardConfig(
    judge=judge,
    labeler=labelers.LabelerConfig(labeler_dir=str(world / "sft" / "model")),
    **changes,
  )


def scores(config, policy):
  """[2, 2]: each context with both texts."""
  score, params, _ = reward_parts.as_reward(config, policy)
  batch, _ = converters.encode_prompts(
    CONTEXTS, policy.tokenizer, policy.sequence
  )
  response, mask, _ = converters.encode_responses(TEXTS, policy.tokenizer, 8)
  both = lambda x: np.broadcast_to(x, (2, *x.shape))  # noqa: E731
  return np.asarray(score(params, batch, both(response), both(mask)))


def test_the_reward_is_the_score_of_the_judge(world, policy, tmp_path):
  own = rubrics.Rubric(criteria=tiny_rubric.CRITERIA[1:], context="one red hat")
  judge = tiny_rubric.write(tmp_path, tiny_rubric.DEFAULT, own)
  ratings, _ = rubric_judge.judge_responses(
    [
      records.Example(id=f"{c}{r}", context=c, response=r)
      for c in CONTEXTS
      for r in TEXTS
    ],
    policy.backend(),
    judge,
    tokenizer=policy.tokenizer,
  )
  expected = np.reshape([rating.score for rating in ratings], (2, 2))
  found = scores(scorer(world, judge), policy)
  np.testing.assert_allclose(found, expected, atol=1e-5)
  assert [len(r.probabilities) for r in ratings] == [2, 2, 1, 1]
  scaled = scores(scorer(world, judge, factor=3.0), policy)
  np.testing.assert_allclose(scaled, 3 * found, rtol=1e-6)


def test_a_rubric_is_found_by_what_the_policy_reads(policy, tmp_path):
  """Its context is longer than the policy's max_context."""
  longer = " ".join(["the cat sat on a mat"] * 9)
  (read,) = judge_rewards.policy_texts(policy)([longer])
  assert len(read) < len(longer)
  own = rubrics.Rubric(criteria=tiny_rubric.CRITERIA[:1], context=longer)
  judge = tiny_rubric.write(tmp_path, tiny_rubric.DEFAULT, own)
  found = judge_rewards.rubrics_of_policy(judge.rubrics_file, policy)
  assert found.find(read) == own and found.find("x") == tiny_rubric.DEFAULT


def test_every_context_must_have_a_rubric(world, policy, tmp_path):
  own = dataclasses.replace(tiny_rubric.DEFAULT, context="the cat sat")
  judge = tiny_rubric.write(tmp_path, own)
  with pytest.raises(ValueError, match="add a row without a context"):
    scores(scorer(world, judge), policy)
  config = dataclasses.replace(
    scorer(world, judge), labeler=labelers.NO_LABELER
  )
  with pytest.raises(ValueError, match="set exactly one"):
    scores(config, policy)
