# SPDX-License-Identifier: Apache-2.0
"""Parts by name: what they add, and what is refused before anything runs."""

from __future__ import annotations

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlaif_jax.api import loading
from rlaif_jax.api import policy_gradient as api
from rlaif_jax.api import reward_loading
from rlaif_jax.api import reward_parts
from rlaif_jax.cli import configuration
from rlaif_jax.cli import gin_reader
from rlaif_jax.cli import resolution
from rlaif_jax.core import records
from rlaif_jax.data import converters

Part = reward_parts.RewardPart


def shout(contexts, responses, *, factor=1.0):
  """A user's reward, by import path."""
  del contexts
  return [factor * len(text) for text in responses]


NOT_A_FUNCTION = 3


@pytest.fixture(scope="module")
def policy(world):
  return loading.load(world / "sft")


@pytest.fixture(scope="module")
def sampled(policy):
  texts = ["cat", "a red hat", "dogs sat", "on", "mat and", "the cat"]
  response, mask, _ = converters.encode_responses(
    texts, policy.tokenizer, policy.sequence.max_response
  )
  prompts = policy.encode(["the cat sat", "one red hat"])
  lengths = np.array([len(text) for text in texts]).reshape(2, 3)
  arrays = (jnp.asarray(x.reshape(2, 3, -1)) for x in (response, mask))
  return (prompts, *arrays), lengths


def test_parts_of_all_kinds_add_up(policy, sampled):
  arrays, lengths = sampled
  parts = [
    Part(name="path", function="tests.api.reward_parts_test:shout"),
    Part(
      name="options",
      function="tests.api.reward_parts_test:shout",
      options={"factor": 2.0},
      weight=0.5,
    ),
    Part(name="rule", function="length", weight=-1.0),
    Part(name="own", reward=lambda contexts, responses: [1.0] * 6, weight=3.0),
    Part(name="jitted", reward=jax.jit(lambda p, r, m: jnp.sum(m, axis=2))),
    Part(name="seen", reward=lambda c, r: [None] * 6, missing="exclude"),
  ]
  score, params, _ = reward_parts.as_reward(parts, policy)
  found = score(params, *arrays)
  np.testing.assert_allclose(found.total, 2.0 * lengths + 3.0)
  assert not found.present["seen"].any()
  np.testing.assert_allclose(found.parts["options"], 2.0 * lengths)


def test_rows_are_looked_up_by_number(policy, sampled):
  (prompts, response, mask), _ = sampled
  examples = [
    records.Example(id="a", context="the cat sat", response="cat"),
    records.Example(id="b", context="one red hat", response="mat and"),
  ]
  part = Part(name="near", function="rouge_l", weight=2.0)
  score, params, _ = reward_parts.as_reward([part], policy, rows=examples)
  found = score(params, prompts, response, mask).total
  np.testing.assert_allclose(found, [[2, 0, 0], [0, 2, 0]], atol=1e-6)
  swapped = prompts.replace(row=jnp.array([1, 0]))
  assert not np.allclose(score(params, swapped, response, mask).total, found)
  with pytest.raises(ValueError, match="no rows are given"):
    reward_parts.as_reward([part], policy)


def test_metrics_of_an_update_have_the_parts(policy):
  rl = api.policy_gradient(
    policy,
    [Part(name="tokens", function="length"), Part(name="own", reward=shout)],
    optax.sgd(1e-3),
    algorithm="rloo",
    samples_per_prompt=3,
  )
  state = rl.init(jax.random.key(0))
  prompts = policy.encode(["the cat sat", "one red hat"])
  batch = rl.rollout(state, prompts, jax.random.key(1))
  _, metrics = rl.update(state, batch)
  tokens = np.asarray(batch.mask).sum(axis=2)
  own = np.asarray(batch.parts.parts["own"])
  assert float(metrics["reward/tokens"]) == pytest.approx(tokens.mean())
  assert float(metrics["reward/tokens/std"]) == pytest.approx(
    tokens.std(), rel=1e-4
  )
  expected = np.corrcoef(tokens.ravel(), own.ravel())[0, 1]
  assert float(metrics["reward/own/length"]) == pytest.approx(
    np.nan_to_num(expected), abs=1e-3
  )
  assert float(metrics["reward/own/missing"]) == 0.0
  np.testing.assert_allclose(batch.score, tokens + own)


@pytest.mark.parametrize(
  "options, words",
  [
    ({}, "exactly one"),
    ({"reward": len, "function": "length"}, "exactly one"),
    ({"reward": len, "options": {"a": 1}}, "no function that reads them"),
    ({"function": "lenght"}, "use one of"),
    ({"function": "no_module:f"}, "import of no_module fails"),
    ({"function": "overlong"}, "missing a required.*longest"),
    ({"function": "matches", "options": {"patern": "x"}}, "patern"),
    (
      {"function": "tests.api.reward_parts_test:NOT_A_FUNCTION"},
      "must be a function",
    ),
    ({"function": "length", "missing": "zero"}, "missing"),
    ({"function": "length", "standardize": "rows"}, "standardize"),
  ],
)
def test_what_is_wrong_is_said_before_anything_runs(policy, options, words):
  with pytest.raises(ValueError, match=words):
    reward_parts.as_reward([Part(name="x", **options)], policy)


def test_two_parts_of_one_name_are_refused(policy):
  parts = (Part(name="x", function="length"), Part(name="x", reward=shout))
  with pytest.raises(ValueError, match="'x', 'x'"):
    reward_parts.as_reward(parts, policy)
  with pytest.raises(ValueError, match="'x', 'x'"):
    reward_parts.RewardConfig(parts=parts)


def test_a_run_has_a_scorer_or_parts():
  scorer = reward_loading.ScorerConfig(reward_dir="reward")
  parts = (Part(name="x", function="length"),)
  for options in ({}, {"scorer": scorer, "parts": parts}):
    with pytest.raises(ValueError, match="exactly one"):
      reward_parts.RewardConfig(**options)


def resolved(text, tmp_path):
  """The reward of `train_policy` from bindings in a gin file."""

  def job(*, output_dir: str, reward: reward_parts.RewardConfig):
    del output_dir, reward

  file = tmp_path / "reward.gin"
  file.write_text(text)
  bindings = gin_reader.read(str(file))
  return resolution.resolve("job", list(bindings), {"job": job})["reward"]


def test_parts_in_a_gin_file(tmp_path):
  """The example of docs/guides/rewards.md, and a judge by its fields."""
  guide = pathlib.Path("docs/guides/rewards.md").read_text("utf-8")
  example = guide.partition("In a gin file:\n\n```\n")[2].partition("```")[0]
  found = resolved(example, tmp_path)
  assert [part.name for part in found.parts] == ["quality", "tokens"]
  assert found.parts[0].reward.reward_dir == "runs/reward/model"
  assert found.parts[1].weight == -0.01
  judge = resolved(
    """
RewardConfig.parts = (@judge/RewardPart(),)
judge/RewardPart.name = "judge"
judge/RewardPart.reward = @judge/PairwiseRewardConfig()
judge/PairwiseRewardConfig.template = "summary_base"
judge/LabelerConfig.labeler_dir = "runs/labeler"
judge/SampleComparison.compare = "ring"
""",
    tmp_path,
  ).parts[0]
  assert judge.reward.labeler.labeler_dir == "runs/labeler"
  assert judge.reward.comparison.compare == "ring"


def test_a_gin_file_without_a_reward_says_what_to_set(tmp_path):
  with pytest.raises(configuration.ConfigurationError, match="exactly one"):
    resolved("", tmp_path)
