# SPDX-License-Identifier: Apache-2.0
"""Training in memory: updates, measurements and the order of rows."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import optax

from rlaif_jax.core import masked
from rlaif_jax.engine import step as step_lib
from rlaif_jax.experiments import toy_training
from tests import tiny_toy


def loss(params, batch, key):
  del key
  error = params["w"] - batch["x"]
  return masked.weighted_sum(error**2, jnp.ones_like(error)), {}


def test_it_trains_measures_and_writes_nothing(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  devices, tx = tiny_toy.programs().devices, optax.sgd(0.1)
  params = toy_training.on_mesh({"w": jnp.zeros(())}, devices)
  seen = {}

  def evaluate(params, step):
    seen[step] = float(params["w"])
    return {"w": seen[step]}

  state = toy_training.fit(
    step_lib.state_from_params(params, tx, devices),
    step_lib.make_train_step(loss, tx),
    toy_training.epoch_batches(
      {"x": np.ones(6, np.float32)}, devices, batch_size=3, seed=0, name="x"
    ),
    num_steps=4,
    seed=0,
    name="test",
    evaluate=evaluate,
    evaluate_at={0, np.int64(1)},
  )
  # The gradient is 2 (w - 1): each update closes a fifth of the distance.
  np.testing.assert_allclose(float(state.params["w"]), 1 - 0.8**4, rtol=1e-5)
  assert sorted(seen) == [0, 1, 4]
  np.testing.assert_allclose(seen[1], 0.2, rtol=1e-5)
  assert not list(tmp_path.iterdir())


def test_an_epoch_has_every_row_once():
  devices = tiny_toy.programs().devices
  next_batch = toy_training.epoch_batches(
    {"x": np.arange(6)}, devices, batch_size=2, seed=3, name="x"
  )
  rows = np.concatenate([next_batch(None, step)["x"] for step in range(6)])
  assert sorted(rows[:6]) == sorted(rows[6:]) == list(range(6))
  assert list(rows[:6]) != list(rows[6:])
