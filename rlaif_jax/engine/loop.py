# SPDX-License-Identifier: Apache-2.0
"""`fit`: the one host loop. SFT, reward models and RL differ in two
functions only: where the next batch comes from, and the step."""

from __future__ import annotations

import collections
import dataclasses
import json
import math
from typing import Any, Callable, Mapping

import jax
import numpy as np

from rlaif_jax.core import jsonl
from rlaif_jax.engine import preemption
from rlaif_jax.core import protocols
from rlaif_jax.core import rng
from rlaif_jax.core import validation
from rlaif_jax.engine import checkpoint
from rlaif_jax.engine import guards
from rlaif_jax.engine import metrics as metrics_lib
from rlaif_jax.engine import processes
from rlaif_jax.engine import step as step_lib


class NonFiniteError(ValueError):
  """A loss or gradient stopped being a number."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoopConfig(validation.Validated):
  """Length of a run, and when it is saved and evaluated.

  Attributes:
    num_steps: number of updates.
    save_every: updates between two checkpoints.
    evaluate_every: updates between two evaluations; 0 evaluates at the end
      only.
    evaluate_at: further steps at which to evaluate.
  """

  num_steps: validation.PositiveInt
  save_every: validation.PositiveInt = 100
  evaluate_every: validation.NonNegativeInt = 0
  evaluate_at: tuple[validation.NonNegativeInt, ...] = ()

  def evaluates_before(self, step: int) -> bool:
    """Returns whether the state after `step` updates, not the last, is due."""
    regular = self.evaluate_every and step % self.evaluate_every == 0
    return bool(regular) or step in self.evaluate_at


StepFn = Callable[
  [step_lib.TrainState, Any, jax.Array],
  tuple[step_lib.TrainState, step_lib.Metrics],
]


def fit(
  state: step_lib.TrainState,
  step_fn: StepFn,
  next_batch: protocols.NextBatch,
  *,
  config: LoopConfig,
  seed: int,
  directory: str,
  name: str,
  evaluate: Callable[[Any, int], Mapping[str, float]] | None = None,
) -> step_lib.TrainState:
  """Trains to config.num_steps, from the newest checkpoint if there is one.

  1. Restore the newest finished checkpoint in `directory`/checkpoints.
  2. Each step: batch from (state, step), update with key (seed, step). The
     update compiles in its first two calls only (of each shape, where pairs
     are packed), and visits no host.
  3. The metrics of step n - 1 are fetched while step n runs.
  4. Every `save_every` steps, once all metrics are known to be finite: save.
  5. `evaluate(params, step)` at the steps of the config and at the end; its
     numbers go to evaluations.jsonl, all others to metrics.jsonl, and the
     seconds of steps and batches to timing.json.

  Args:
    state: freshly initialised; gives the layout for restoring. Donated.
    step_fn: from `step.make_train_step`.
    next_batch: (state, step) -> batch on the devices.
    config: lengths.
    seed: of the run.
    directory: of the run; "" keeps everything in memory: no checkpoint, no
      file and no progress line.
    name: shown in the progress line; names the random stream.
    evaluate: optional, (params, step) -> numbers.

  Raises:
    NonFiniteError: names the quantity and the step; the last good checkpoint
      stays.
    preemption.Preempted: after saving, when the process was asked to stop.
  """
  files = _RunFiles(directory)
  state = files.restore(state)
  done = int(state.step)
  progress = metrics_lib.Progress(name, config.num_steps, done=done)
  clock = metrics_lib.StepClock()
  pending: tuple[int, Any] | None = None
  seen: collections.Counter[Any] = collections.Counter()

  def flush():
    nonlocal pending
    if pending is not None:
      values = fetch(pending[0], pending[1])
      files.write_metrics(pending[0], values)
      if directory:
        progress.update(pending[0], f"loss {values['loss']:.4f}")
      pending = None

  def evaluate_now(step, params):
    if evaluate is not None:
      files.write_evaluation(step, evaluate(params, step))

  for step in range(done, config.num_steps):
    if config.evaluates_before(step):
      flush()
      evaluate_now(step, state.params)
    with clock.making_a_batch():
      batch = next_batch(state, step)
    key = rng.key(seed, f"{name}/update", step)
    shape = guards.shape_of(batch)
    with guards.steady(f"{name}: step {step + 1}", seen[shape] >= 2):
      state, metrics = step_fn(state, batch, key)
    seen[shape] += 1
    flush()
    pending = (step + 1, metrics)
    stopping = processes.is_time_to_stop(step + 1, preemption.requested())
    if stopping or (step + 1) % config.save_every == 0:
      flush()
      files.save(step + 1, state)
    if stopping:
      files.close()
      raise preemption.Preempted(f"{name}: stopped after step {step + 1}")
  flush()
  files.write_timing(clock.summary())
  files.save(config.num_steps, state)
  evaluate_now(config.num_steps, state.params)
  files.close()
  return state


class _RunFiles:
  """Checkpoints, metrics, evaluations and timing; with no directory, none."""

  def __init__(self, directory: str):
    self._directory = directory
    self._checkpoints = None
    if directory:
      self._checkpoints = checkpoint.RunCheckpoints(f"{directory}/checkpoints")
    self._metrics = metrics_lib.MetricsFile(f"{directory}/metrics.jsonl")
    self._evaluations = metrics_lib.MetricsFile(
      f"{directory}/evaluations.jsonl"
    )

  def restore(self, state: step_lib.TrainState) -> step_lib.TrainState:
    """Returns the newest checkpoint, or `state`, and drops later lines."""
    if self._checkpoints is None:
      return state
    restored = self._checkpoints.restore(state)
    if restored is not state:  # The caller may still hold it.
      jax.tree.map(lambda leaf: leaf.delete(), state)
    done = int(restored.step)
    self._metrics.truncate_after(done)
    self._evaluations.truncate_after(done - 1)
    return restored

  def write_metrics(self, step: int, values: Mapping[str, float]) -> None:
    if self._directory:
      self._metrics.write(step, values)

  def write_evaluation(self, step: int, values: Mapping[str, float]) -> None:
    if self._directory:
      self._evaluations.write(step, values)

  def write_timing(self, summary: Mapping[str, float]) -> None:
    # Each process has times of its own.
    if self._directory and processes.is_writer():
      jsonl.write_text(
        f"{self._directory}/timing.json", json.dumps(summary) + "\n"
      )

  def save(self, step: int, state: step_lib.TrainState) -> None:
    if self._checkpoints is not None:
      self._checkpoints.save(step, state)

  def close(self) -> None:
    if self._checkpoints is not None:
      self._checkpoints.close()


def fetch(step: int, metrics: step_lib.Metrics) -> dict[str, float]:
  """Brings metrics to the host, divides once, and checks them.

  Raises:
    NonFiniteError: a loss, gradient norm or any other metric is NaN or inf.
  """
  values = {
    name: float(np.asarray(value.mean()))
    for name, value in jax.device_get(dict(metrics)).items()
  }
  bad = {k: v for k, v in values.items() if not math.isfinite(v)}
  if bad:
    raise NonFiniteError(
      f"step {step}: {bad} is not finite; the last good checkpoint is kept. "
      "Lower the learning rate, or set OptimizerConfig.clip_norm, and start "
      "again in a new --output_dir"
    )
  return values
