# SPDX-License-Identifier: Apache-2.0
"""The reward of a policy run, in the unit that the config asks for."""

from __future__ import annotations

import dataclasses

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.core import compute as compute_lib
from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.data import converters
from rlaif_jax.core import rng
from rlaif_jax.engine import mesh
from rlaif_jax.model_io import initialization
from rlaif_jax.model_io import pretrained
from rlaif_jax.api import reward_loading
from rlaif_jax.models import architectures
from rlaif_jax.models import heads
from tests import testing

TEXTS = ("the cat sat", "red hat on it", "ten dogs", "saw one mat near")


@pytest.fixture
def policy(world):
  devices = mesh.make_mesh("data:-1", jax.devices()[:1])
  return pretrained.load(str(world / "sft" / "model"), "language", devices)


def config(world, **changes):
  settings = dict(
    labeler_dir=str(world / "sft" / "model"),
    rating_template="docstring_rating",
  )
  return reward_loading.ScorerConfig(**{**settings, **changes})


def scores(config, policy):
  devices = mesh.make_mesh("data:-1", jax.devices()[:1])
  score, params = reward_loading.make_scorer(config, policy, devices)
  batch, _ = converters.encode_prompts(
    ["a cat and a dog"] * 4, policy.tokenizer, policy.sequence
  )
  response, mask, _ = converters.encode_responses(TEXTS, policy.tokenizer, 8)
  found = score(params, batch, response[:, None], mask[:, None])
  return np.asarray(found)[:, 0]


def test_a_labeler_with_another_vocabulary_gives_the_same_score(world, policy):
  """Through text on the host, as on the device."""
  device = scores(config(world), policy)

  class Other:
    fingerprint = "another"

    def __getattr__(self, name):
      return getattr(policy.tokenizer, name)

  apart = dataclasses.replace(policy, tokenizer=Other())
  np.testing.assert_allclose(scores(config(world), apart), device, atol=1e-5)
  assert np.std(device) > 0


def test_standardised_over_stored_responses(world, policy, tmp_path):
  path = stored(tmp_path / "responses.jsonl")
  raw = scores(config(world), policy)
  result = scores(config(world, standardize_file=path, scale=0.5), policy)
  expected = 0.5 * (raw - raw.mean()) / raw.std()
  np.testing.assert_allclose(result, expected, atol=2e-2)


def stored(path):
  """Responses that set units, as the `sample` job leaves them."""
  rows = [
    records.Response(
      id=str(i),
      index=0,
      context="a cat and a dog",
      text=text,
      tokens=3,
      finished=True,
    )
    for i, text in enumerate(TEXTS)
  ]
  jsonl.write_records(path, rows)
  return str(path)


def save_reward(directory, policy, seed):
  """A reward model with a head of its own on the policy's trunk."""
  devices = mesh.make_mesh("data:-1", jax.devices()[:1])
  scalar = architectures.scalar(policy.config)
  params = initialization.scalar_params(
    scalar, policy, devices, rng.key(seed, "init")
  )
  kernel = params["head"]["kernel"]
  kernel = jax.random.normal(jax.random.key(seed), kernel.shape)
  params = {**params, "head": {**params["head"], "kernel": kernel}}
  pretrained.save_like(str(directory), params, policy, name="r", kind="scalar")
  return str(directory)


@pytest.mark.parametrize("aggregate", ["mean", "wco", "lcb"])
def test_several_reward_models_are_aggregated_in_their_units(
  policy, tmp_path, aggregate
):
  one, two, three = (
    save_reward(tmp_path / str(seed), policy, seed) for seed in (1, 2, 3)
  )
  path = stored(tmp_path / "responses.jsonl")

  def reward(**changes):
    changes = {"standardize_file": path, **changes}
    return scores(reward_loading.ScorerConfig(**changes), policy)

  singles = np.stack([reward(reward_dir=name) for name in (one, two, three)])
  expected = {
    "mean": singles.mean(axis=0),
    "wco": singles.min(axis=0),
    "lcb": singles.mean(axis=0) - 2.0 * singles.std(axis=0),
  }[aggregate]
  # The whole is in one unit again.
  expected = (expected - expected.mean()) / expected.std()
  found = reward(
    reward_dir=one,
    more_reward_dirs=(two, three),
    aggregate=aggregate,
    coefficient=2.0,
  )
  np.testing.assert_allclose(found, expected, atol=1e-3)
  assert np.abs(found - singles[0]).max() > 1e-2


@pytest.mark.parametrize(
  "changes, word",
  [
    ({"more_reward_dirs": ("x",)}, "standardize_file"),
    ({"aggregate": "median"}, "median"),
  ],
)
def test_bad_ensembles_are_named(changes, word):
  with pytest.raises(ValueError, match=word):
    reward_loading.ScorerConfig(reward_dir="y", **changes)


@pytest.mark.parametrize(
  "changes",
  [
    {"reward_dir": "x"},
    {"labeler_dir": ""},
    {"rating_template": ""},
    {"scale": 0.0},
  ],
)
def test_bad_settings_are_errors(world, changes):
  with pytest.raises(ValueError, match="ScorerConfig"):
    config(world, **changes)


def test_a_reward_model_of_other_prompts_is_refused(policy):
  """Trap: the template differs between policy and reward model."""
  reward_loading.check_same_text("dir", policy, policy)
  sequence = dataclasses.replace(policy.sequence, suffix="\nTL;DR:\n")
  other = dataclasses.replace(policy, sequence=sequence)
  with pytest.raises(ValueError, match="suffix"):
    reward_loading.check_same_text("dir", other, policy)

  class Other:
    fingerprint = "another"

  with pytest.raises(ValueError, match="another vocabulary"):
    reward_loading.check_same_text(
      "dir", dataclasses.replace(policy, tokenizer=Other()), policy
    )


def test_a_trunk_has_no_output_layer():
  """An untied language model has a matrix that no scalar model reads."""
  config = testing.tiny_decoder(320, tie_embeddings=False)
  language, scalar = architectures.language(config), heads.functions(config)
  start = types.SimpleNamespace(params=testing.build(language))
  devices = mesh.make_mesh("data:1", jax.devices()[:1])
  params = initialization.scalar_params(
    scalar, start, devices, rng.key(0, "init")
  )
  assert "output" in start.params and "output" not in params["decoder"]
  wanted = jax.tree.structure(testing.build(scalar))
  assert jax.tree.structure(params) == wanted


def test_a_scorer_may_be_held_in_bfloat16(world, policy):
  placement = compute_lib.Placement(dtype="bfloat16")
  devices = mesh.make_mesh("data:-1", jax.devices()[:1])
  _, unit = reward_loading.make_scorer(
    config(world, placement=placement), policy, devices
  )
  held = {x.dtype for x in jax.tree.leaves(unit.params.params)}
  assert held == {jnp.bfloat16.dtype}
  plain, small = (
    scores(config(world, placement=p), policy)
    for p in (compute_lib.PLAIN, placement)
  )
  assert np.abs(plain - small).max() < 0.05 * np.abs(plain).max()
  assert np.any(plain != small)
