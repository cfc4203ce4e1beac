# SPDX-License-Identifier: Apache-2.0
"""The pairwise judge as a reward: on the device, by text, and served."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.api import labelers
from rlaif_jax.api import loading
from rlaif_jax.api import pairwise_rewards
from rlaif_jax.api import reward_parts
from rlaif_jax.core import protocols
from rlaif_jax.core import records
from rlaif_jax.data import converters
from rlaif_jax.engine import preemption
from rlaif_jax.labeling import costs
from rlaif_jax.labeling import endpoint_config
from rlaif_jax.labeling import pairwise_judge
from rlaif_jax.labeling import pairwise_reward
from tests.labeling import faulty_server

TEMPLATE = "docstring_pairwise"
TEXTS = ["cat", "a red hat", "cat", "on", "mat and", "the cat"]
EXAMPLES = [
  records.Example(id="a", context="the cat sat", response="one hat"),
  records.Example(id="b", context="one red hat", response="on"),
]
CRITERIA = {"a": "be short", "b": "name the hat"}


@pytest.fixture(scope="module")
def policy(world):
  return loading.load(world / "sft")


@pytest.fixture(scope="module")
def sampled(policy):
  response, mask, _ = converters.encode_responses(
    TEXTS, policy.tokenizer, policy.sequence.max_response
  )
  prompts = policy.encode([row.context for row in EXAMPLES])
  arrays = (jnp.asarray(x.reshape(2, 3, -1)) for x in (response, mask))
  return prompts, *arrays


def score(reward, policy, sampled):
  found = reward_parts.as_reward(reward, policy, rows=EXAMPLES)
  return np.asarray(found.score(found.params, *sampled))


class Renamed:
  """A tokenizer with another fingerprint."""

  fingerprint = "other"

  def __init__(self, tokenizer):
    self._tokenizer = tokenizer

  def __getattr__(self, name):
    return getattr(self._tokenizer, name)


@pytest.mark.parametrize(
  "options",
  [
    {},
    {"compare": "reference"},
    {"criteria": CRITERIA, "length_penalty": 0.2},
  ],
)
def test_on_the_device_and_by_text_agree(policy, sampled, options):
  """The same model; another name of the vocabulary makes it read text."""
  other = dataclasses.replace(policy, tokenizer=Renamed(policy.tokenizer))
  on_device, by_text = (
    score(
      pairwise_rewards.pairwise_reward(model, TEMPLATE, **options),
      policy,
      sampled,
    )
    for model in (policy, other)
  )
  assert on_device.shape == (2, 3) and np.std(on_device) > 0
  np.testing.assert_allclose(on_device, by_text, atol=1e-4)


def labelled(p_first, refused=()):
  """A stand-in for an endpoint that refuses some texts."""

  def label(pairs):
    return [
      records.Preference(
        **vars(pair), p_first=p_first(pair.first, pair.second), labeler="x"
      )
      for pair in pairs
      if not {pair.first, pair.second} & set(refused)
    ]

  return pairwise_rewards.PairwiseReward(
    None,
    pairwise_judge.PairwiseJudgeConfig(template=TEMPLATE),
    pairwise_reward.SampleComparison(),
    {},
    label,
  )


def longer(first, second):
  return 0.5 * (1 + np.sign(len(first) - len(second)))


def test_a_judge_that_fails_on_one_sample_does_not_stop_the_step(
  policy, sampled
):
  found = score(labelled(longer), policy, sampled)
  np.testing.assert_allclose(found, [[0.25, 1, 0.25], [0, 0.75, 0.75]])
  reward = labelled(longer, refused=["on"])
  part = reward_parts.RewardPart(name="j", reward=reward, missing="exclude")
  built = reward_parts.as_reward([part], policy, rows=EXAMPLES)
  result = built.score(built.params, *sampled)
  np.testing.assert_allclose(result.total, [[0.25, 1, 0.25], [0, 0.5, 0.5]])
  assert not bool(result.present["j"][1, 0])
  with pytest.raises(protocols.RewardError, match="'on' to b"):
    score(reward, policy, sampled)


def test_what_is_missing_is_said(policy, world):
  reward = pairwise_rewards.pairwise_reward(
    policy, TEMPLATE, compare="reference"
  )
  with pytest.raises(ValueError, match="no rows are given"):
    reward_parts.as_reward(reward, policy)
  bare = [dataclasses.replace(EXAMPLES[0], response="")]
  with pytest.raises(ValueError, match="no response, the first 'a'"):
    reward_parts.as_reward(reward, policy, rows=bare)
  short = dataclasses.replace(policy.functions, max_length=40)
  small = dataclasses.replace(policy, functions=short)
  with pytest.raises(ValueError, match="reads 40 tokens"):
    reward_parts.as_reward(
      pairwise_rewards.pairwise_reward(small, TEMPLATE), policy
    )
  config = pairwise_rewards.PairwiseRewardConfig(template=TEMPLATE)
  with pytest.raises(ValueError, match="exactly one"):
    reward_parts.as_reward(config, policy)
  wrong = pairwise_rewards.pairwise_reward(policy, "docstring_rating")
  with pytest.raises(ValueError, match="pairwise"):
    reward_parts.as_reward(wrong, policy)


def test_other_rows_have_other_references(policy, sampled):
  reward = pairwise_rewards.pairwise_reward(
    policy, TEMPLATE, compare="reference"
  )
  found = reward_parts.as_reward(reward, policy, rows=EXAMPLES)
  others = [dataclasses.replace(row, response="mat") for row in EXAMPLES]
  params = found.with_rows(others)
  plain = found.score(found.params, *sampled)
  assert np.abs(found.score(params, *sampled) - plain).max() > 1e-5
  # The labeler is not copied.
  assert (
    jax.tree.leaves(params.labeler)[0]
    is jax.tree.leaves(found.params.labeler)[0]
  )


def served_scores(server, policy, sampled, directory, **store):
  endpoint = endpoint_config.EndpointConfig(
    model="m", base_url=server.url, first_backoff_seconds=0.01
  )
  prices = costs.Prices(input_usd_per_1k=0.5, output_usd_per_1k=1.0)
  config = pairwise_rewards.PairwiseRewardConfig(
    labeler=labelers.LabelerConfig(endpoint=endpoint, prices=prices),
    template=TEMPLATE,
    store=labelers.StoreConfig(**store),
  )
  part = reward_parts.RewardPart(name="j", reward=config, missing="exclude")
  built = reward_parts.as_reward(
    [part], policy, rows=EXAMPLES, directory=str(directory)
  )
  return built.score(built.params, *sampled)


def test_an_endpoint_is_asked_once_for_each_pair(policy, sampled, tmp_path):
  """A second start with the same samples pays nothing; faults cost no step."""
  pytest.importorskip("openai")
  plan = lambda prompt, attempt: "" if attempt else "garbled"
  with faulty_server.FaultyServer(plan=plan) as server:
    first = served_scores(server, policy, sampled, tmp_path)
    asked = server.received.total()
    again = served_scores(server, policy, sampled, tmp_path)
    assert server.received.total() == asked
  with faulty_server.FaultyServer() as server:
    clean = served_scores(server, policy, sampled, tmp_path / "clean")
    # Two of three texts are equal, so one pair of them is asked for.
    assert server.received.total() == 2 * (1 + 3)
  np.testing.assert_array_equal(first.total, again.total)
  np.testing.assert_array_equal(first.total, clean.total)
  assert np.std(first.total) > 0


def test_a_budget_that_ends_stops_the_run_and_not_the_judge(
  policy, sampled, tmp_path
):
  pytest.importorskip("openai")
  with faulty_server.FaultyServer() as server:
    with pytest.raises(preemption.Preempted, match="raise budget_usd"):
      served_scores(server, policy, sampled, tmp_path, budget_usd=0.3)
    paid = server.received.total()
    assert paid < 8
    served_scores(server, policy, sampled, tmp_path, budget_usd=1000.0)
    assert server.received.total() == 8


def test_an_own_backend_judges_in_rl(policy, sampled, tmp_path):
  config = pairwise_rewards.PairwiseRewardConfig(
    labeler=labelers.LabelerConfig(backend="tests.api.own_judge:OwnJudge"),
    template=TEMPLATE,
  )
  found = reward_parts.as_reward(
    config, policy, rows=EXAMPLES, directory=str(tmp_path)
  )
  scores = np.asarray(found.score(found.params, *sampled))
  # It prefers shorter responses.
  assert scores[0].argmin() == 1 and scores[1].argmax() == 0
  with pytest.raises(ValueError, match="directory"):
    reward_parts.as_reward(config, policy)
