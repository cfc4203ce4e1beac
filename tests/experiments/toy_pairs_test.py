# SPDX-License-Identifier: Apache-2.0
"""Arms on pairs: weights, rounds, references, and what is refused."""

from __future__ import annotations

import dataclasses
import functools
import typing

import numpy as np
import pytest

from rlaif_jax.dpo import model as dpo_model
from rlaif_jax.experiments import toy_pairs
from tests import tiny_toy

DPO = dpo_model.DPOConfig()
TRAIN = toy_pairs.ToyPairConfig(
  optimizer=tiny_toy.adam(1e-2),
  epochs=2,
  batch_size=32,
  pairs=64,
  samples=4,
  evaluations=3,
)


def arm(**changes):
  return toy_pairs.ToyPairArm(name="x", dpo=DPO, **changes)


@functools.cache
def trainer():
  policies = tiny_toy.policies()
  judges = toy_pairs.make_judges(tiny_toy.data(), policies)
  return toy_pairs.PairTrainer(policies, TRAIN), judges


def test_weights_have_mean_one_and_shuffling_keeps_their_histogram():
  _, judges = trainer()
  data = tiny_toy.data()
  found = {
    kind: toy_pairs.weighted_pairs(data, arm(weights=kind), judges).weight
    for kind in typing.get_args(toy_pairs.Weights)
  }
  for kind, weight in found.items():
    np.testing.assert_allclose(weight.mean(), 1.0, rtol=1e-5, err_msg=kind)
  assert (found["none"] == 1).all()
  np.testing.assert_array_equal(
    np.sort(found["shuffled"]), np.sort(found["pointwise"])
  )
  assert (found["shuffled"] != found["pointwise"]).any()
  assert set(found["top"]) == {0.0, found["top"].max()}
  assert np.abs(found["difference"] - found["pointwise"]).max() > 0.1
  # By gold: none where the label is wrong, most where the gap is large.
  margins = data.train_margins
  won = np.where(data.train.label > 0.5, margins, -margins)
  assert (found["gold"][won < 0] == 0).all()
  assert found["gold"][np.argmax(won)] == found["gold"].max()


def test_both_judges_know_more_than_chance():
  _, judges = trainer()
  numbers = toy_pairs.judge_numbers(tiny_toy.data(), judges)
  for kind in ("pointwise", "difference"):
    assert numbers[f"{kind}_accuracy"] > 0.6
    assert numbers[f"{kind}_correlation"] > 0.2


@pytest.mark.parametrize("judge", ["pointwise", "pairwise"])
def test_the_judges_prefer_the_winners_that_are_sampled(judge):
  pairs, judges = trainer()
  data = tiny_toy.data()
  chosen = pairs.sampled_pairs(data, arm(judge=judge), judges, data.policy, 0)
  assert len(chosen.label) == TRAIN.pairs and (chosen.label == 1).all()
  if judge == "pointwise":
    assert (judges.margins("pointwise", chosen) > 0).all()
  else:
    assert judges.margins("difference", chosen).mean() > 0
  # A heavy price on tokens makes the winner the shorter one.
  short = pairs.sampled_pairs(
    data,
    arm(judge=judge, length_penalty=1e3),
    judges,
    data.policy,
    0,
  )
  lengths = [np.asarray(x.weights).sum() for x in (short.first, short.second)]
  assert lengths[0] <= lengths[1]


def test_rounds_sample_from_whom_they_say():
  """Same updates and pairs; the second round is what differs."""
  pairs, judges = trainer()
  data = tiny_toy.data()
  online = arm(judge="pointwise", rounds=2, reference="initial")
  paths = {
    "online": pairs.learn(data, online, judges),
    "offline": pairs.learn(
      data, dataclasses.replace(online, on_policy=False), judges
    ),
    "previous": pairs.learn(
      data, dataclasses.replace(online, reference="previous"), judges
    ),
  }
  steps = [row["step"] for row in paths["online"]]
  assert steps == sorted(set(steps)) and steps[-1] == 8
  half = [row for row in paths["online"] if row["step"] <= 4]
  for other in ("offline", "previous"):
    assert [row["step"] for row in paths[other]] == steps
    assert paths[other][: len(half)] == half
    assert paths[other][-1] != paths["online"][-1]
  assert paths["online"][-1]["proxy"] > paths["online"][0]["proxy"] + 0.1


@pytest.mark.parametrize("loss", typing.get_args(toy_pairs.Loss))
def test_every_loss_learns_from_labels(loss):
  pairs, judges = trainer()
  rows = pairs.learn(tiny_toy.data(), arm(loss=loss), judges)
  assert abs(rows[0]["kl"]) < 1e-4
  assert rows[-1]["gold"] > rows[0]["gold"]
  assert [row["step"] for row in rows] == [0, 3, 6]


@pytest.mark.parametrize(
  "changes, word",
  [
    ({"loss": "ppo"}, "ppo"),
    ({"weights": "heavy"}, "heavy"),
    ({"rounds": 2}, "rounds need a judge"),
    ({"judge": "pointwise", "rounds": 2}, "'initial'"),
    ({"judge": "pointwise", "weights": "gold"}, "unless judge is"),
    ({"judge": "pairwise", "choose": "best"}, "choose"),
  ],
)
def test_what_makes_no_sense_is_refused(changes, word):
  with pytest.raises(ValueError, match=word):
    arm(**changes)
