# SPDX-License-Identifier: Apache-2.0
"""The host loop: bit-exact resumption, NaN stops it, SIGTERM saves."""

from __future__ import annotations

import gc
import json
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlaif_jax.core import masked
from rlaif_jax.core import protocols
from rlaif_jax.engine import hashes
from rlaif_jax.engine import preemption
from rlaif_jax.engine import loop
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.engine import run_checkpoints
from rlaif_jax.engine import step as step_lib


class Killed(BaseException):
  """Stands for a SIGKILL: nothing in the loop may catch it."""


def loss_fn(params, batch, key):
  noise = jax.random.normal(key, batch.shape)
  error = (batch @ params["w"][:, None])[:, 0] - 1.0 + 0.1 * noise[:, 0]
  return masked.weighted_sum(error**2, jnp.ones_like(error)), {}


def run(
  directory,
  *,
  steps=10,
  kill_at=None,
  kill_with=Killed,
  save_every=3,
  spoil_at=None,
  evaluate_at=(),
  evaluate=lambda params, number: {"w0": float(params["w"][0])},
):
  mesh = mesh_lib.make_mesh("data:-1", jax.devices()[:1])
  tx = optax.adam(0.1)
  everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  params = jax.device_put({"w": jnp.ones(3)}, everywhere)
  state = step_lib.state_from_params(params, tx, mesh)
  update = step_lib.make_train_step(loss_fn, tx)

  def next_batch(state, number):
    del state
    if number == kill_at:
      raise kill_with
    batch = np.random.default_rng(number).normal(size=(4, 3))
    if number == spoil_at:
      batch[0, 0] = np.nan
    return jax.device_put(batch.astype(np.float32), everywhere)

  return loop.fit(
    state,
    update,
    next_batch,
    config=loop.TrainConfig(
      num_steps=steps,
      save_every=save_every,
      evaluate_every=4,
      evaluate_at=evaluate_at,
    ),
    directory=str(directory),
    name="test",
    evaluate=evaluate,
  )


def files(directory):
  return [
    (directory / name).read_text()
    for name in ("metrics.jsonl", "evaluations.jsonl")
  ]


@pytest.mark.parametrize("points", [(1,), (4,), (5, 9), (2, 3, 7)])
def test_killed_anywhere_it_ends_with_the_same_bytes(tmp_path, points):
  whole = run(tmp_path / "whole")
  for point in points:
    with pytest.raises(Killed):
      run(tmp_path / "killed", kill_at=point)
  resumed = run(tmp_path / "killed")
  assert hashes.shard_hashes(whole) == hashes.shard_hashes(resumed)
  assert files(tmp_path / "whole") == files(tmp_path / "killed")


def test_a_reward_without_a_value_keeps_the_steps_before(tmp_path):
  whole = run(tmp_path / "whole")
  error = protocols.RewardError("no value")
  with pytest.raises(protocols.RewardError):
    run(tmp_path / "failed", kill_at=8, kill_with=error, save_every=100)
  assert len(files(tmp_path / "failed")[0].splitlines()) == 8
  # A step before the eighth would be killed, but none is computed again.
  resumed = run(tmp_path / "failed", kill_at=7, save_every=100)
  assert hashes.shard_hashes(whole) == hashes.shard_hashes(resumed)
  assert files(tmp_path / "whole") == files(tmp_path / "failed")


def test_without_a_directory_it_writes_nothing(tmp_path, monkeypatch):
  whole = run(tmp_path / "whole")
  monkeypatch.chdir(tmp_path)
  evaluated = []

  def evaluate(params, step):
    evaluated.append(step)
    return {"w0": float(params["w"][0])}

  state = run("", evaluate=evaluate, evaluate_at=(1, 7))
  assert hashes.shard_hashes(whole) == hashes.shard_hashes(state)
  assert evaluated == [0, 1, 4, 7, 8, 10]
  assert [path.name for path in tmp_path.iterdir()] == ["whole"]


def test_it_says_how_long_batches_took(tmp_path):
  run(tmp_path)
  summary = json.loads((tmp_path / "timing.json").read_text())
  assert summary["steps"] == 9 and 0 < summary["input_share"] < 1


def test_a_non_finite_loss_stops_and_keeps_the_last_good(tmp_path):
  with pytest.raises(loop.NonFiniteError, match="step 8.*loss"):
    run(tmp_path, spoil_at=7)
  assert run_checkpoints.RunCheckpoints(tmp_path / "checkpoints").steps() == [
    3,
    6,
  ]


# Threads of TensorStore report to Orbax's event loop, which is closed by then;
# see `run_checkpoints_test`.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_damaged_newest_checkpoint_costs_its_steps_alone(tmp_path):
  whole = run(tmp_path / "whole")
  with pytest.raises(Killed):
    run(tmp_path / "damaged", kill_at=7)
  newest = tmp_path / "damaged" / "checkpoints" / "6"
  for path in newest.glob("default/d/*"):
    path.write_bytes(path.read_bytes()[:-9])
  resumed = run(tmp_path / "damaged")
  assert hashes.shard_hashes(whole) == hashes.shard_hashes(resumed)
  assert files(tmp_path / "whole") == files(tmp_path / "damaged")
  steps = [
    run_checkpoints.RunCheckpoints(tmp_path / name / "checkpoints").steps()
    for name in ("whole", "damaged")
  ]
  assert steps == [[9, 10], [9, 10]]


def test_a_stop_saves_the_step_it_stands_at(tmp_path, monkeypatch):
  answers = iter([False, False, False, False, True])
  monkeypatch.setattr(preemption, "requested", lambda: next(answers))
  with pytest.raises(preemption.Preempted, match="step 5"):
    run(tmp_path / "stopped")
  monkeypatch.undo()
  resumed, whole = run(tmp_path / "stopped"), run(tmp_path / "whole")
  assert hashes.shard_hashes(whole) == hashes.shard_hashes(resumed)


@pytest.mark.parametrize(
  "field, value",
  [
    ("num_steps", -1),
    ("epochs", -1.0),
    ("batch_size", 0),
    ("save_every", 0),
    ("evaluate_every", -1),
  ],
)
def test_bad_lengths_are_named(field, value):
  with pytest.raises(ValueError, match=f"TrainConfig.{field} is"):
    loop.TrainConfig(**{"num_steps": 1, field: value})


def test_steps_or_epochs_give_the_length():
  with pytest.raises(ValueError, match="both 0"):
    loop.TrainConfig()
  by_epochs = loop.TrainConfig(epochs=2.5, batch_size=8)
  # 60 rows in batches of 8, the last one begun; at least one.
  assert [by_epochs.steps(n) for n in (24, 1)] == [8, 1]
  assert loop.TrainConfig(num_steps=3, epochs=2.5).steps(24) == 3
  assert loop.TrainConfig(num_steps=3).steps(0) == 3
  with pytest.raises(ValueError, match="number of rows is 0"):
    by_epochs.steps(0)


def test_memory_does_not_grow_with_the_steps(tmp_path):
  """Memory of this process, from step 200 to step 1,000 of a run."""

  def resident():
    gc.collect()
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")

  run(tmp_path / "a", steps=200, save_every=500)
  before = resident()
  run(tmp_path / "a", steps=1000, save_every=500)
  assert resident() - before < 10e6
