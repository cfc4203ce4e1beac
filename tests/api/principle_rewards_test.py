# SPDX-License-Identifier: Apache-2.0
"""A reward model that reads principles, from labels to the reward of RL."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from rlaif_jax.api import principle_rewards
from rlaif_jax.api import reward_parts
from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.data import converters
from rlaif_jax.data import preferences
from rlaif_jax.engine import mesh
from rlaif_jax.jobs import train_reward
from rlaif_jax.jobs import train_sft
from rlaif_jax.jobs import write_principle_data
from rlaif_jax.labeling import principle_data
from rlaif_jax.labeling import principles
from rlaif_jax.model_io import pretrained
from tests import testing
from tests import tiny_world as tiny

DEVICES = mesh.make_mesh("data:-1", jax.devices()[:1])
FILE = """
[[principles]]
text = "the cat"
negation = "ten dogs"
"""
GOOD, BAD = "a cat sat", "ten hats"
MODEL = dataclasses.replace(
  tiny.MODEL, num_layers=2, width=32, num_heads=4, num_kv_heads=4, mlp_dim=64
)


def judged(n):
  """Labels of a principle judge, in which "the cat" asks for a cat."""
  rows = []
  for i in range(n):
    swap = bool(np.random.default_rng(i).integers(2))
    texts = (BAD, GOOD) if swap else (GOOD, BAD)
    p = (0.1, 0.2) if swap else (0.9, 0.8)
    rows.append(
      records.Preference(
        id=str(i),
        context="the mat",
        first=texts[0],
        second=texts[1],
        p_first=p[0],
        labeler="ai",
        rationales=("the cat",) * 2,
        p_rationales=p,
      )
    )
  return rows


def make_reward(world, directory, *, num_steps, n=64):
  """From labels of principles to a reward model; returns its directory."""
  start = train_sft.run(
    output_dir=str(directory / "start"),
    data=tiny.sft_data(
      world,
      sequence=converters.SequenceConfig(max_context=4, max_response=64),
    ),
    model=MODEL,
    optimizer=tiny.ADAM,
    train=tiny.train_config(num_steps=1),
  )["model"]
  jsonl.write_records(directory / "judged.jsonl", judged(n))
  (directory / "p.toml").write_text(FILE)
  data = write_principle_data.run(
    output_dir=str(directory / "data"),
    labels_file=str(directory / "judged.jsonl"),
    principles_file=str(directory / "p.toml"),
    reward_init=start,
    rows=principle_data.PrincipleDataConfig(
      max_tokens=63, flip_probability=0.0
    ),
  )
  assert data["rows"] == 4 * n and 0 < data["negated"] < data["rows"]
  return train_reward.run(
    output_dir=str(directory / "reward"),
    labels=preferences.LabelsConfig(
      labels_file=data["labels"], test_labels_file=data["labels"]
    ),
    init_from=start,
    optimizer=tiny.ADAM,
    train=tiny.train_config(batch_size=32, num_steps=num_steps),
  )["model"]


@pytest.fixture(name="policy", scope="module")
def fixture_policy(world):
  return pretrained.load(str(world / "sft" / "model"), "language", DEVICES)


@pytest.fixture(name="made", scope="module")
def fixture_made(world, tmp_path_factory):
  directory = tmp_path_factory.mktemp("principles")
  return directory, make_reward(world, directory, num_steps=2, n=8)


def config(made, text=FILE, **changes):
  directory, reward = made
  path = directory / "rl.toml"
  path.write_text(text)
  settings = {"principle_reward_dir": reward, "principles_file": str(path)}
  return principle_rewards.PrincipleRewardConfig(**settings | changes)


def scores(config, policy, texts=(GOOD, BAD), context="the mat"):
  score, params, _ = reward_parts.as_reward(config, policy)
  batch, _ = converters.encode_prompts(
    [context], policy.tokenizer, policy.sequence
  )
  response, mask, _ = converters.encode_responses(texts, policy.tokenizer, 8)
  return np.asarray(score(params, batch, response[None], mask[None]))[0]


def test_the_reward_is_that_of_the_training_text(made, policy):
  """As `train_reward` encodes it: nothing before, the text as the response."""
  reward = pretrained.load(made[1], "scalar", DEVICES)
  text = f"Response\n{GOOD}\n\nText\nthe mat\n\nPrinciples\n- the cat\n"
  pair = records.Preference(
    id="x", context="", first=text, second=text, p_first=1.0, labeler="l"
  )
  encode = preferences.make_encoder(reward.tokenizer, reward.sequence)
  pairs, counts = encode([pair])
  assert not any(counts.values())
  expected = reward.functions.last(reward.params, pairs.first)
  found = scores(config(made), policy)
  np.testing.assert_allclose(found[0], expected[0], atol=1e-5)
  assert found[0] != found[1]
  tripled = scores(config(made, multiplier=3.0), policy)
  np.testing.assert_allclose(tripled, 3 * found, rtol=1e-5)


def test_a_prohibition_is_added_without_training(made, policy):
  plain = scores(config(made), policy)
  more = FILE + '[[principles]]\ntext = "no dogs"\nalways = true\n'
  assert not np.allclose(scores(config(made, more), policy), plain)
  unrelated = more + 'where = "elsewhere"\n'
  np.testing.assert_allclose(
    scores(config(made, unrelated), policy), plain, atol=1e-6
  )


def test_draws_depend_on_the_prompt_and_the_seed_alone():
  rows = tuple(principles.Principle(text=f"p{i}") for i in range(9))
  file = principles.Principles(principles=rows)
  settings = principle_rewards.PrincipleRewardConfig(
    principle_reward_dir="x", principles_file="y"
  )
  of = principle_rewards.sentences_of
  first = of(file, "one", settings)
  assert len(first) == 3 and of(file, "one", settings) == first
  others = [of(file, f"context {i}", settings) for i in range(9)]
  assert len(set(map(tuple, others))) > 3
  reseeded = dataclasses.replace(settings, draw_seed=1)
  assert of(file, "one", reseeded) != first
  one = dataclasses.replace(settings, num_principles=1)
  assert len(of(file, "one", one)) == 1


def test_principles_that_do_not_fit_are_told_before_a_step(made, policy):
  long = FILE.replace("the cat", "the cat sat on a mat " * 12 + "cat")
  with pytest.raises(ValueError, match="larger SequenceConfig.max_response"):
    scores(config(made, long), policy)
  somewhere = FILE + 'where = "mat"\n'
  with pytest.raises(ValueError, match="add one that applies everywhere"):
    scores(config(made, somewhere), policy)


@testing.AT_NIGHT
def test_the_reward_follows_the_principle_and_its_negation(
  world, policy, tmp_path
):
  """The same pair, under p and not p, in the one reward model."""
  made = (tmp_path, make_reward(world, tmp_path, num_steps=150))
  good, bad = scores(config(made), policy)
  assert good > bad + 1.0
  negated = FILE.replace("the cat", "x").replace("ten dogs", "the cat")
  negated = negated.replace('"x"', '"ten dogs"')
  good, bad = scores(config(made, negated), policy)
  assert bad > good + 1.0
