# SPDX-License-Identifier: Apache-2.0
"""Arms of a seed share its proxies; an arm without its config is named."""

from __future__ import annotations

import dataclasses

import pytest

from rlaif_jax.dpo import model as dpo_model
from rlaif_jax.experiments import toy_arms
from rlaif_jax.experiments import toy_labels
from rlaif_jax.experiments import toy_pairs
from rlaif_jax.experiments import toy_teachers
from rlaif_jax.reward import ensemble
from tests import tiny_toy

SEARCH = toy_arms.ToyProxyArm(
  name="search", ensemble=ensemble.EnsembleConfig(), rl=None
)


def test_arms_of_a_seed_share_the_proxy_of_the_same_labels():
  labels = toy_labels.ToyLabelsConfig(
    labelers=(toy_labels.ToyLabelerConfig(flip=0.5),)
  )
  gold = dataclasses.replace(SEARCH, name="gold", reward="gold")
  other = dataclasses.replace(SEARCH, name="other", labels=labels)
  arms = (SEARCH, gold, other)
  run = toy_arms.ArmRunner(tiny_toy.policies(), arms, None, None).open_seed(0)
  (first, costs), (second, again), (third, _) = map(run, arms)
  assert set(first) == {"proxy", "search"}
  assert costs[0] is again[0]  # measured once
  assert first["proxy"] == second["proxy"] != third["proxy"]
  assert first["search"] != second["search"]


@pytest.mark.parametrize(
  "arm, name",
  [
    (toy_pairs.ToyPairArm(name="x", dpo=dpo_model.DPOConfig()), "pairs"),
    (toy_teachers.ToyTeacherArm(name="x", teacher="weak"), "teachers"),
  ],
)
def test_an_arm_without_its_config_is_named(arm, name):
  with pytest.raises(ValueError, match=f"toy_world.{name} is None"):
    toy_arms.ArmRunner(tiny_toy.policies(), (arm,), None, None)
