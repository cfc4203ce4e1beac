# SPDX-License-Identifier: Apache-2.0
"""The update step: exact accumulation, minibatches, one device or eight."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlaif_jax.core import masked
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.engine import optimizer
from rlaif_jax.engine import step


def init(key):
  kernel = jax.random.normal(key, (3, 2))
  return {"w": nn.LogicallyPartitioned(kernel, ("embed", "mlp"))}


def loss_fn(params, batch, key):
  del key
  predicted = batch["x"] @ params["w"]
  error = jnp.sum((predicted - batch["y"]) ** 2, axis=-1)
  return masked.weighted_sum(error, batch["weight"]), {
    "rows": masked.weighted_sum(jnp.ones_like(error), batch["weight"])
  }


def data(rows=8):
  generator = np.random.default_rng(0)
  return {
    "x": generator.normal(size=(rows, 3)).astype(np.float32),
    "y": generator.normal(size=(rows, 2)).astype(np.float32),
    # Very unequal weights, so that a mean of means is far off.
    "weight": np.array([1, 0, 0, 0, 5, 1, 1, 1], np.float32)[:rows],
  }


def train(devices, steps=3, **options):
  mesh = mesh_lib.make_mesh("data:-1", devices)
  tx = optax.adam(0.1)
  state = step.init_state(init, tx, jax.random.key(0), mesh)
  run = step.make_train_step(loss_fn, tx, **options)
  batch = mesh_lib.put_batch(mesh, data())
  for number in range(steps):
    state, metrics = run(state, batch, jax.random.key(number))
  return state, metrics


def test_microbatches_give_the_same_update():
  """Trap: averages of averages over unequal counts."""
  whole, _ = train(jax.devices()[:1])
  parts, metrics = train(jax.devices()[:1], microbatches=4)
  np.testing.assert_allclose(
    whole.params["w"], parts.params["w"], rtol=1e-5, atol=1e-6
  )
  assert float(metrics["rows"].weight) == 9.0


def test_gradient_is_that_of_the_weighted_mean():
  batch, params = data(), {"w": jnp.ones((3, 2))}
  gradient, _ = step.accumulate_gradients(
    loss_fn, params, batch, jax.random.key(0), 2
  )

  def mean_loss(p):
    error = jnp.sum((batch["x"] @ p["w"] - batch["y"]) ** 2, axis=-1)
    return jnp.sum(error * batch["weight"]) / 9.0

  expected = jax.grad(mean_loss)(params)
  np.testing.assert_allclose(gradient["w"], expected["w"], rtol=1e-5)


def test_eight_devices_equal_one():
  one, _ = train(jax.devices()[:1])
  eight, _ = train(jax.devices()[:8])
  np.testing.assert_allclose(
    one.params["w"], eight.params["w"], rtol=1e-5, atol=1e-6
  )


def test_epochs_and_minibatches_update_that_often():
  mesh = mesh_lib.make_mesh("data:-1", jax.devices()[:1])
  tx = optax.sgd(1e-3)
  state = step.init_state(init, tx, jax.random.key(0), mesh)
  run = step.make_train_step(loss_fn, tx, epochs=3, minibatches=2)
  state, metrics = run(state, data(), jax.random.key(0))
  assert int(state.step) == 1
  assert float(metrics["grad_norm"].weight) == 6.0
  assert float(metrics["rows"].weight) == 27.0


def test_minibatches_are_a_new_order_of_all_rows_in_each_epoch():
  seen = []

  def watching(params, batch, key):
    jax.debug.callback(lambda x: seen.append(np.asarray(x)), batch["number"])
    return loss_fn(params, batch, key)

  mesh = mesh_lib.make_mesh("data:-1", jax.devices()[:1])
  tx = optax.sgd(1e-3)
  state = step.init_state(init, tx, jax.random.key(0), mesh)
  rows = 8
  batch = {**data(), "number": jnp.arange(rows)}
  run = step.make_train_step(watching, tx, epochs=3, minibatches=2)
  jax.block_until_ready(run(state, batch, jax.random.key(0)))
  jax.effects_barrier()
  assert len(seen) == 6
  orders = {tuple(np.concatenate(seen[i : i + 2])) for i in (0, 2, 4)}
  assert len(orders) == 3
  for order in orders:
    assert sorted(order) == list(range(rows)) and list(order) != sorted(order)
  with pytest.raises(ValueError, match="do not divide into 3 minibatches"):
    step.make_train_step(loss_fn, tx, minibatches=3)(
      step.init_state(init, tx, jax.random.key(0), mesh), batch, None
    )


def test_what_is_frozen_is_read_and_stays():
  """With w = learned + frozen the learned part goes where w would."""
  mesh = mesh_lib.make_mesh("data:-1", jax.devices()[:1])
  tx = optax.sgd(1e-2)
  frozen = {"w": jnp.full((3, 2), 0.5)}
  whole = {"w": jnp.full((3, 2), 0.5)}
  learned = {"w": jnp.zeros((3, 2))}
  add = lambda a, b: jax.tree.map(jnp.add, a, b)
  one = step.state_from_params(whole, tx, mesh)
  other = step.state_from_params(learned, tx, mesh)
  plain = step.make_train_step(loss_fn, tx)
  split = step.make_train_step(loss_fn, tx, microbatches=2, combine=add)
  for number in range(3):
    key = jax.random.key(number)
    one, _ = plain(one, data(), key)
    other, _ = split(other, data(), key, frozen)
  np.testing.assert_allclose(
    one.params["w"], other.params["w"] + 0.5, rtol=1e-5
  )
  np.testing.assert_array_equal(frozen["w"], np.full((3, 2), 0.5))


def test_compiles_once():
  mesh = mesh_lib.make_mesh("data:-1", jax.devices()[:1])
  tx = optax.adam(0.1)
  state = step.init_state(init, tx, jax.random.key(0), mesh)
  run = step.make_train_step(loss_fn, tx)
  for number in range(4):
    batch = mesh_lib.put_batch(mesh, data())
    state, _ = run(state, batch, jax.random.key(number))
  assert run.compiled._cache_size() == 1


def test_rows_that_do_not_divide_are_an_error():
  with pytest.raises(ValueError, match="microbatches"):
    train(jax.devices()[:1], microbatches=3)


def test_moments_are_split_like_their_parameters():
  mesh = mesh_lib.make_mesh("data:2,model:4", jax.devices()[:8])

  def wide(key):
    kernel = jax.random.normal(key, (4, 8))
    inner = {"w": nn.LogicallyPartitioned(kernel, ("embed", "mlp"))}
    return {"policy": inner}

  tx = optimizer.make_joint_optimizer(
    {"policy": optimizer.OptimizerConfig(name="adamw")}
  )
  state = step.init_state(wide, tx, jax.random.key(0), mesh)
  own = state.params["policy"]["w"].sharding
  assert own.spec == jax.sharding.PartitionSpec("fsdp", "model")
  moments = [x for x in jax.tree.leaves(state.opt_state) if x.shape == (4, 8)]
  assert len(moments) == 2
  assert all(moment.sharding == own for moment in moments)
