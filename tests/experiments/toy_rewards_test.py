# SPDX-License-Identifier: Apache-2.0
"""Proxies learn what pairs say; phases and units are what they claim."""

from __future__ import annotations

import typing

import jax
import numpy as np
import pytest

from rlaif_jax.engine import scoring
from rlaif_jax.reward import ensemble
from tests import tiny_toy


def members(kind, **changes):
  return ensemble.EnsembleConfig(
    kind=kind, members=2, lora=tiny_toy.LORA, **changes
  )


@pytest.mark.parametrize("kind", typing.get_args(ensemble.Kind))
def test_a_proxy_learns_and_its_members_are_in_one_unit(kind):
  data = tiny_toy.data()
  proxy = tiny_toy.trainer().train(data, members(kind))
  assert proxy.numbers["accuracy"] > 0.6
  prompts, samples = data.reference
  joined = scoring.join(prompts, samples.response, samples.mask)
  raw = tiny_toy.trainer().rewards(members(kind))(proxy.unit.params, joined)
  unit = (raw - proxy.unit.shift[:, None]) / proxy.unit.scale[:, None]
  np.testing.assert_allclose(unit.mean(axis=1), 0.0, atol=1e-4)
  np.testing.assert_allclose(unit.std(axis=1), 1.0, atol=1e-3)
  assert proxy.numbers["disagreement"] > 0
  assert proxy.costs["bytes"] == 4 * proxy.numbers["parameters"]
  # Members learned from one set of pairs, and differ where it says nothing.
  assert proxy.numbers["far_correlation"] < 1.0
  np.testing.assert_allclose(
    proxy.numbers["correlation"], np.corrcoef(raw)[0, 1], atol=1e-4
  )


def test_only_the_first_phase_moves_the_trunk():
  trainer, data = tiny_toy.trainer(), tiny_toy.data()
  two = trainer.train(data, members("lora")).unit.params
  one = trainer.train(data, members("lora", first_phase=0.0)).unit.params

  def gap(a, b):
    leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b))
    return max(float(np.abs(x - y).max()) for x, y in leaves)

  # Both start from the same trunk; only the first phase moves it.
  trunk = trainer.train(data, members("lora", first_phase=0.0, head_scale=2.0))
  assert gap(trunk.unit.params["shared"], one["shared"]) == 0
  assert gap(two["shared"], one["shared"]) > 1e-2
  adapters = two["members"]["adapters"]
  assert max(float(np.abs(x["b"]).max()) for x in adapters.values()) > 0


def test_labels_the_other_way_round_teach_the_opposite():
  data = tiny_toy.data()
  turned = data.train.replace(label=1 - data.train.label)
  single = ensemble.EnsembleConfig()
  proxy = tiny_toy.trainer().train(data, single, turned)
  assert proxy.numbers["accuracy"] < 0.45
  assert "correlation" not in proxy.numbers  # There is but one member.
