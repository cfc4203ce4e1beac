# SPDX-License-Identifier: Apache-2.0
"""Runs `engine.loop.fit` in memory, for the small models of the toy world."""

from __future__ import annotations

from typing import Callable, Collection, Mapping, TypeVar

import jax
from jaxtyping import PyTree

from rlaif_jax.core import protocols
from rlaif_jax.data import converters
from rlaif_jax.engine import loop
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.engine import step as step_lib

Batch = TypeVar("Batch")


def fit(
  state: step_lib.TrainState,
  update: loop.StepFn,
  next_batch: protocols.NextBatch,
  *,
  num_steps: int,
  seed: int,
  name: str,
  evaluate: Callable[[PyTree, int], Mapping[str, float]] | None = None,
  evaluate_at: Collection[int] = (),
) -> step_lib.TrainState:
  """Trains for a number of updates without files; see `engine.loop.fit`.

  Args:
    state: donated.
    update: from `engine.step.make_train_step`.
    next_batch: (state, step) -> batch on the device.
    num_steps: number of updates.
    seed: of the run.
    name: of the random stream `{name}/update`.
    evaluate: (params, step) -> numbers, at `evaluate_at` and at the end.
    evaluate_at: steps, counted in finished updates.
  """
  return loop.fit(
    state,
    update,
    next_batch,
    config=loop.TrainConfig(
      num_steps=num_steps,
      evaluate_at=tuple(int(s) for s in evaluate_at),
      seed=seed,
    ),
    directory="",
    name=name,
    evaluate=evaluate,
  )


def epoch_batches(
  rows: Batch,
  devices: jax.sharding.Mesh,
  *,
  batch_size: int,
  seed: int,
  name: str,
) -> protocols.NextBatch:
  """Returns a `next_batch` that reshuffles the rows in each epoch.

  Args:
    rows: pytree whose leaves have the rows as their first axis.
    devices: mesh on which batches are replicated.
    batch_size: rows of a batch.
    seed: of the order.
    name: of the random stream of the order.
  """
  count = len(jax.tree.leaves(rows)[0])

  def next_batch(state: step_lib.TrainState, step: int) -> Batch:
    del state
    index = converters.epoch_rows(
      num_rows=count, batch_size=batch_size, seed=seed, name=name, step=step
    )
    return on_mesh(converters.take(rows, index), devices)

  return next_batch


def on_mesh(tree: Batch, devices: jax.sharding.Mesh) -> Batch:
  """Returns the tree replicated over the mesh."""
  return jax.device_put(tree, mesh_lib.replicated(devices))
