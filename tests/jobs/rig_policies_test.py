# SPDX-License-Identifier: Apache-2.0
"""Searching and training with a proxy that is gold itself, in effect."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.jobs import rig_policies
from rlaif_jax.rl import algorithms
from tests import tiny_rig

RLOO = algorithms.RLConfig(algorithm="rloo", samples_per_prompt=4, beta=0.0)


@pytest.fixture(scope="module")
def policies():
  return rig_policies.Policies(
    tiny_rig.programs(), tiny_rig.trainer(), tiny_rig.SEARCH, tiny_rig.TRAIN
  )


def count_first_word(params, prompts, response, mask):
  """A reward that everybody can see: how often the first word stands there."""
  del params, prompts
  return jnp.sum((response == 4) * mask, axis=1)


def nothing_more(prompts, drawn):
  del prompts, drawn
  return {}


def test_best_of_n_by_gold_itself_is_the_best_of_gold(policies):
  setting = tiny_rig.setting()
  _, drawn, gold = policies.search_samples(setting)
  assert gold.shape == (4, 16)

  def oracle(unit, prompts, response, mask):
    del unit
    fake = type("Drawn", (), {"response": response, "mask": mask})
    return setting.gold(prompts, fake)

  rows = policies.best_of_n(setting, oracle, None)
  assert [row["n"] for row in rows] == [1, 4, 16]
  np.testing.assert_allclose(rows[0]["gold"], gold.mean(), rtol=1e-6)
  np.testing.assert_allclose(rows[-1]["gold"], gold.max(axis=1).mean())
  assert rows[1]["gold"] == rows[1]["proxy"]
  np.testing.assert_allclose(
    rows[0]["tokens"], drawn.mask.sum(axis=1).mean(), rtol=1e-6
  )


def test_training_raises_the_proxy_and_moves_away(policies):
  setting = tiny_rig.setting()
  rows = policies.reinforce(setting, count_first_word, None, RLOO, nothing_more)
  assert [row["step"] for row in rows] == tiny_rig.TRAIN.times()
  assert abs(rows[0]["kl"]) < 1e-4 < rows[-1]["kl"]
  assert rows[-1]["proxy"] > rows[0]["proxy"] + 0.2
  # The first policy is left as it was.
  again = policies.measure(
    setting, setting.policy, count_first_word, None, nothing_more
  )
  assert again["gold"] == rows[0]["gold"]


def test_a_kl_penalty_keeps_it_near(policies):
  setting = tiny_rig.setting()
  strict = algorithms.RLConfig(algorithm="rloo", samples_per_prompt=4, beta=0.9)
  free, held = (
    policies.reinforce(setting, count_first_word, None, rl, nothing_more)[-1]
    for rl in (RLOO, strict)
  )
  assert held["kl"] < 0.5 * free["kl"]


def test_measurements_are_dense_at_the_start_and_end_at_the_end():
  times = tiny_rig.TRAIN.times()
  assert times == [0, 2, 6]


def test_what_the_rig_does_not_have_is_named(policies):
  with pytest.raises(ValueError, match="value"):
    policies.reinforce(
      tiny_rig.setting(),
      count_first_word,
      None,
      algorithms.RLConfig(),
      nothing_more,
    )
  with pytest.raises(ValueError, match="needs n samples"):
    rig_policies.SearchConfig(samples=4, sizes=(1, 8))
