# SPDX-License-Identifier: Apache-2.0
"""SFT, reward models and DPO on rows in memory: they learn what rows say."""

from __future__ import annotations

import jax
import numpy as np
import optax
import pytest

from rlaif_jax.api import loading
from rlaif_jax.api import training
from rlaif_jax.core import lora_config
from rlaif_jax.core import records
from rlaif_jax.data import converters
from rlaif_jax.engine import scoring
from rlaif_jax.evaluation import agreement
from rlaif_jax.reward import model as reward_model


@pytest.fixture(scope="module")
def policy(world):
  return loading.load(world / "sft")


@pytest.fixture(scope="module")
def labels():
  """The response that begins with "cat" is better."""
  return [
    records.Preference(
      id=str(i),
      context=f"the cat sat on {i}",
      first="cat sat" if i % 2 else "dogs sat",
      second="dogs sat" if i % 2 else "cat sat",
      p_first=float(i % 2),
      labeler="test",
    )
    for i in range(16)
  ]


FIT = {"num_steps": 12, "batch_size": 8, "optimizer": optax.adam(1e-2)}


def encoded(labels, model):
  return converters.encode_preferences(labels, model.tokenizer, model.sequence)[
    0
  ]


def test_adapters_are_merged_at_the_end(policy, labels):
  lora = lora_config.LoraConfig(rank=4, targets=(r".*/kernel",))
  for fit in (training.fit_reward_model, training.fit_dpo):
    model = fit(labels, init=policy, lora=lora, **FIT)
    own = model.params.get("decoder", model.params)
    assert jax.tree.structure(own) == jax.tree.structure(policy.params)
    same = jax.tree.map(np.array_equal, own, policy.params)
    changed = [same["blocks_0"]["mlp"]["up"]["kernel"]]
    assert same["embedding"]["table"] and not any(changed)


def test_sft_raises_the_likelihood_of_its_responses(policy):
  examples = [records.Example(id="0", context="the cat", response="a red hat")]
  model = training.fit_sft(examples, init=policy, **{**FIT, "batch_size": 1})
  rows, _ = converters.encode_examples(
    examples, policy.tokenizer, policy.sequence
  )
  before, after = (
    float(
      np.sum(
        scoring.response_log_probs(m.functions, m.params, rows) * rows.weights
      )
    )
    for m in (policy, model)
  )
  assert after > before + 3


def test_a_reward_model_learns_the_labels_and_is_saved(
  policy, labels, tmp_path
):
  model = training.fit_reward_model(labels, init=policy, **FIT)
  pairs = encoded(labels, policy)
  rewards = reward_model.pair_rewards(model.functions, model.params, pairs)
  assert agreement.reward_accuracy(rewards, labels)["accuracy"] == 1.0
  model.save(str(tmp_path / "reward"))
  again = loading.load(tmp_path / "reward")
  assert again.kind == "scalar"
  jax.tree.map(np.testing.assert_array_equal, again.params, model.params)


def test_dpo_prefers_what_the_labels_prefer(policy, labels):
  before = jax.tree.map(np.array, policy.params)
  model = training.fit_dpo(labels, init=policy, **FIT)
  pairs = encoded(labels, policy)
  margins = []
  for params in (policy.params, model.params):
    first, second = scoring.pair_log_probs(policy.functions, params, pairs)
    margins.append((first - second) * (2 * pairs.label - 1))
  assert np.all(margins[1] > margins[0])
  # The model that training started from is still there.
  jax.tree.map(np.testing.assert_array_equal, policy.params, before)


def test_a_directory_resumes(policy, labels, tmp_path):
  options = {"init": policy, "directory": str(tmp_path), **FIT}
  training.fit_dpo(labels, **{**options, "num_steps": 4})
  resumed = training.fit_dpo(labels, **{**options, "num_steps": 6})
  whole = training.fit_dpo(labels, init=policy, **{**FIT, "num_steps": 6})
  jax.tree.map(np.testing.assert_array_equal, resumed.params, whole.params)
