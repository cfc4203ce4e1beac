# SPDX-License-Identifier: Apache-2.0
"""Everything that can be a reward gives [B, N], and equal texts equal ones."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlaif_jax.api import loading
from rlaif_jax.api import rewards
from rlaif_jax.api import training
from rlaif_jax.core import records
from rlaif_jax.data import converters
from rlaif_jax.engine import decode
from rlaif_jax.text import prompts


@pytest.fixture(scope="module")
def policy(world):
  return loading.load(world / "sft")


@pytest.fixture(scope="module")
def sampled(policy):
  prompts = policy.encode(["the cat sat", "one red hat"])
  samples = policy.generate(prompts, jax.random.key(0), num_samples=3)
  return prompts, samples.response, samples.mask


def score(reward, policy, sampled):
  found = rewards.as_reward(reward, policy)
  return np.asarray(found.score(found.params, *sampled))


def test_a_function_of_texts_gets_contexts_and_responses(policy, sampled):
  seen = []

  def words(contexts, responses):
    seen.extend(zip(contexts, responses, strict=True))
    return [float(len(text)) for text in responses]

  found = score(words, policy, sampled)
  texts = policy.decode(
    decode.SampledResponses(
      response=sampled[1], mask=sampled[2], log_probs=None
    )
  )
  np.testing.assert_array_equal(
    found, [[len(text) for text in row] for row in texts]
  )
  assert [context for context, _ in seen] == [
    *["the cat sat"] * 3,
    *["one red hat"] * 3,
  ]


def test_a_wrong_number_of_rewards_is_an_error(policy, sampled):
  with pytest.raises(ValueError, match="must return 6 numbers"):
    score(lambda contexts, responses: [1.0], policy, sampled)


def test_a_jitted_function_gets_tokens(policy, sampled):
  @jax.jit
  def length(prompts, response, mask):
    del prompts, response
    return jnp.sum(mask, axis=-1)

  np.testing.assert_array_equal(
    score(length, policy, sampled), np.asarray(sampled[2]).sum(axis=-1)
  )


YES_NO = """
name = "yes_no"
kind = "yesno"
polarity = "flip"
options = ["Y", "N"]
preamble = "\\nRude?\\n"
sample = "\\nText\\n{context}\\nLine\\n{response}\\n"
ending = "\\nAnswer\\n"
"""


@pytest.mark.parametrize("template", ["docstring_rating", "yes_no"])
def test_a_labeler_on_the_device_and_by_text_agree(
  policy, sampled, template, tmp_path
):
  """The same model; another name of the vocabulary makes it read text."""
  if template == "yes_no":
    (tmp_path / "yes_no.toml").write_text(YES_NO)
    template = str(tmp_path / "yes_no.toml")
  texts = ["cat", "a red hat", "dogs sat", "on", "mat and", "the cat"]
  response, mask, _ = converters.encode_responses(
    texts, policy.tokenizer, policy.sequence.max_response
  )
  arrays = (jnp.asarray(x.reshape(2, 3, -1)) for x in (response, mask))
  sampled = (sampled[0], *arrays)
  on_device = score(rewards.llm_reward(policy, template), policy, sampled)
  tokenizer = _Renamed(policy.tokenizer)
  other = dataclasses.replace(policy, tokenizer=tokenizer)
  by_text = score(rewards.llm_reward(other, template), policy, sampled)
  assert on_device.shape == (2, 3) and np.std(on_device) > 0
  np.testing.assert_allclose(on_device, by_text, atol=1e-4)


def test_a_labeler_that_cannot_read_the_longest_prompt_is_named(policy):
  reward = rewards.llm_reward(policy, "docstring_rating")
  functions = policy.functions
  texts = policy.sequence.max_context + policy.sequence.max_response
  template = prompts.load("docstring_rating")
  bos = policy.tokenizer.bos_id is not None
  parts = [policy.tokenizer.encode(p) for p in template.pointwise_parts()]
  # "10" is two tokens, of which the second is only predicted.
  needed = sum(map(len, parts)) + bos + texts + 1
  for limit, fits in ((needed, True), (needed - 1, False)):
    short = dataclasses.replace(functions, max_length=limit)
    labeler = dataclasses.replace(policy, functions=short)
    reward = rewards.llm_reward(labeler, "docstring_rating")
    if fits:
      reward.for_policy(policy)
    else:
      with pytest.raises(ValueError, match=f"reads {limit} tokens.*{needed}"):
        reward.for_policy(policy)


class _Renamed:
  """A tokenizer with another fingerprint."""

  fingerprint = "other"

  def __init__(self, tokenizer):
    self._tokenizer = tokenizer

  def __getattr__(self, name):
    return getattr(self._tokenizer, name)


def test_a_reward_model_and_what_is_none(policy, sampled):
  labels = [
    records.Preference(
      id="0", context="c", first="a", second="b", p_first=1.0, labeler=""
    )
  ]
  model = training.fit_reward_model(
    labels, init=policy, num_steps=2, batch_size=1, optimizer=optax.adam(1e-2)
  )
  assert score(model, policy, sampled).shape == (2, 3)
  sequence = dataclasses.replace(policy.sequence, suffix="\nTL;DR:\n")
  with pytest.raises(ValueError, match="TL;DR"):
    rewards.as_reward(model, dataclasses.replace(policy, sequence=sequence))
  with pytest.raises(ValueError, match="is a language model"):
    rewards.as_reward(policy, policy)
  with pytest.raises(ValueError, match="is 3; give"):
    rewards.as_reward(3, policy)


def test_a_likelihood_reward_is_of_the_whole_response_unless_asked(policy):
  assert rewards.likelihood_reward(policy).likelihood == "pmi"
  assert rewards.likelihood_reward(policy, "mean_pmi").likelihood == "mean_pmi"
