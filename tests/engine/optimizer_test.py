# SPDX-License-Identifier: Apache-2.0
"""Schedules by hand, decay of matrices only, optimizers apart."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.engine import optimizer


def config(**changes):
  return optimizer.OptimizerConfig(
    **{"name": "adamw", "learning_rate": 0.1, **changes}
  )


def test_schedules_by_hand():
  linear = optimizer.make_schedule(
    config(schedule="linear", warmup_steps=2, decay_steps=12)
  )
  np.testing.assert_allclose(
    [float(linear(s)) for s in (0, 2, 7, 12)], [0.05, 0.1, 0.05, 0], atol=1e-7
  )
  cosine = optimizer.make_schedule(config(schedule="cosine", decay_steps=10))
  np.testing.assert_allclose(
    [float(cosine(s)) for s in (0, 5, 10)], [0.1, 0.05, 0], atol=1e-7
  )
  assert float(optimizer.make_schedule(config())(99)) == pytest.approx(0.1)


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
def test_weight_decay_moves_matrices_only(name):
  params = {"w": jnp.ones((4, 4)), "scale": jnp.ones(4)}
  zero = jax.tree.map(jnp.zeros_like, params)
  tx = optimizer.make_optimizer(config(name=name, weight_decay=0.5))
  updates, _ = tx.update(zero, tx.init(params), params)
  assert float(jnp.abs(updates["w"]).min()) > 0
  assert float(jnp.abs(updates["scale"]).max()) == 0


def test_the_norm_is_clipped_before_the_moments():
  params = {"w": jnp.zeros(2)}
  gradient = {"w": jnp.array([30.0, 40.0])}
  tx = optimizer.make_optimizer(config(clip_norm=1.0))
  _, state = tx.update(gradient, tx.init(params), params)
  leaves = [leaf for leaf in jax.tree.leaves(state) if leaf.shape == (2,)]
  np.testing.assert_allclose(leaves[0], [0.06, 0.08], rtol=1e-5)


def test_joint_optimizers_have_their_own_rates():
  params = {"policy": {"w": jnp.ones(1)}, "value": {"w": jnp.ones(1)}}
  tx = optimizer.make_joint_optimizer(
    {"policy": config(), "value": config(learning_rate=0.01)}
  )
  gradient = jax.tree.map(jnp.ones_like, params)
  updates, _ = tx.update(gradient, tx.init(params), params)
  np.testing.assert_allclose(updates["policy"]["w"], [-0.1], rtol=1e-4)
  np.testing.assert_allclose(updates["value"]["w"], [-0.01], rtol=1e-4)
  with pytest.raises(ValueError, match="same"):
    tx.init({"policy": params["policy"]})


@pytest.mark.parametrize(
  "changes, word",
  [
    ({"name": "sgd"}, "name"),
    ({"schedule": "step"}, "schedule"),
    ({"schedule": "cosine"}, "decay_steps"),
    ({"learning_rate": 0.0}, "learning_rate"),
  ],
)
def test_bad_settings_are_named(changes, word):
  with pytest.raises(ValueError, match=word):
    config(**changes)
