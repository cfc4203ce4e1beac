# SPDX-License-Identifier: Apache-2.0
"""One device and eight train to the same parameters, however split."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from rlaif_jax.core import batches
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.engine import optimizer
from rlaif_jax.engine import step
from rlaif_jax.jobs import train_sft
from rlaif_jax.models import decoder
from tests import testing

CONFIG = testing.tiny_decoder(16, width=16, mlp_dim=32)
FUNCTIONS = decoder.functions(CONFIG)


def batch(number):
  generator = np.random.default_rng(number)
  lengths = generator.integers(3, 10, 8)
  valid = np.arange(12)[None] >= 12 - lengths[:, None]
  return batches.TokenBatch(
    tokens=generator.integers(0, 16, (8, 12)).astype(np.int32),
    valid=valid,
    # Unequal numbers of response tokens.
    weights=(valid[:, -4:] & (generator.random((8, 4)) < 0.7)).astype(
      np.float32
    ),
  )


def train(text, devices, microbatches):
  mesh = mesh_lib.make_mesh(text, devices)
  tx = optimizer.make_optimizer(
    optimizer.OptimizerConfig(name="adamw", learning_rate=1e-2, clip_norm=1.0)
  )
  state = step.init_state(FUNCTIONS.init, tx, jax.random.key(0), mesh)
  update = step.make_train_step(
    train_sft.make_loss(FUNCTIONS, 0.5), tx, microbatches=microbatches
  )
  losses = []
  for number in range(5):
    part = mesh_lib.put_batch(mesh, batch(number))
    state, metrics = update(state, part, jax.random.key(number))
    losses.append(float(metrics["loss"].mean()))
  assert update.compiled._cache_size() == 1
  return jax.device_get(state.params), losses


@pytest.fixture(scope="module")
def alone():
  return train("data:1", jax.devices()[:1], 1)


@pytest.mark.parametrize(
  "text, microbatches",
  [("data:8", 1), ("data:2,fsdp:2,model:2", 1), ("data:2,model:4", 2)],
)
def test_the_mesh_changes_nothing(alone, text, microbatches):
  params, losses = train(text, jax.devices()[:8], microbatches)
  np.testing.assert_allclose(losses, alone[1], atol=1e-5)
  for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(alone[0])):
    np.testing.assert_allclose(a, b, atol=2e-5)
