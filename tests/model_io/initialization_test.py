# SPDX-License-Identifier: Apache-2.0
"""Reward models begin with the trunk of a language model and a head by key."""

from __future__ import annotations

import jax
import numpy as np

from rlaif_jax.api import loading
from rlaif_jax.model_io import initialization
from rlaif_jax.model_io import pretrained
from rlaif_jax.reward import ensemble


def test_the_trunk_is_a_copy(world):
  start = loading.load(world / "sft")
  functions = pretrained.scalar_model(start.config, start.mesh)
  params = initialization.scalar_params(
    functions, start, start.mesh, jax.random.key(0)
  )
  trunk = initialization.part_of(params["decoder"], start.params)
  jax.tree.map(np.testing.assert_array_equal, params["decoder"], trunk)
  jax.tree.map(lambda x: x.delete(), params)
  assert not jax.tree.leaves(start.params)[0].is_deleted()


def test_members_differ_by_key(world):
  start = loading.load(world / "sft")
  functions = pretrained.scalar_model(start.config, start.mesh)
  config = ensemble.EnsembleConfig(kind="heads", members=2)
  first, second = (
    initialization.ensemble_params(
      functions, config, start, start.mesh, jax.random.key(seed)
    )["members"]["head"]["kernel"]
    for seed in (0, 1)
  )
  assert first.shape[0] == 2 and np.any(np.asarray(first[0] != first[1]))
  assert np.any(np.asarray(first != second))
