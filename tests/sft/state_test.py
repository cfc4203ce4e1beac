# SPDX-License-Identifier: Apache-2.0
"""SFT trains a new model, a given one, or adapters of one."""

from __future__ import annotations

import jax
import numpy as np
import optax

from rlaif_jax.core import compute as compute_lib
from rlaif_jax.engine import mesh
from rlaif_jax.models import architectures
from rlaif_jax.models import lora
from rlaif_jax.sft import state
from tests import testing

FUNCTIONS = architectures.language(testing.tiny_decoder(16, num_layers=1))


def start(params=None, config=None, **changes):
  devices = mesh.make_mesh("fsdp:2", jax.devices()[:2])
  return state.start(
    FUNCTIONS,
    optax.sgd(0.1),
    params,
    config,
    seed=0,
    devices=devices,
    **changes,
  )


def test_a_new_model_has_the_sharding_of_its_placement():
  whole = compute_lib.Placement(rules=(("embed", ""),))
  split, replicated = start(), start(placement=whole)
  for a, b in zip(
    *map(jax.tree.leaves, (split.state.params, replicated.state.params)),
    strict=True,
  ):
    np.testing.assert_array_equal(a, b)
    assert b.sharding.is_fully_replicated
  table = split.state.params["embedding"]["table"]
  assert not table.sharding.is_fully_replicated
  assert split.frozen is None and split.merged(1) == 1


def test_a_given_model_is_owned_and_with_adapters_frozen():
  params = start().state.params
  assert start(params).state.params is params
  config = lora.LoraConfig(rank=2, targets=(r".*/query/kernel",))
  first = start(params, config)
  assert first.frozen is params
  sizes = [x.size for x in jax.tree.leaves(first.state.params)]
  assert 0 < sum(sizes) < sum(x.size for x in jax.tree.leaves(params))
  merged = first.merged(first.state.params)
  # Fresh adapters change nothing.
  jax.tree.map(np.testing.assert_array_equal, merged, params)
