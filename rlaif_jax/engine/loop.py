# SPDX-License-Identifier: Apache-2.0
"""`fit`, the host loop of every training job.

SFT, reward models, DPO and RL differ in two functions: the one that returns the
next batch, and the update step.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import math
from typing import Callable, Mapping

import jax
import numpy as np

from rlaif_jax.core import jsonl
from rlaif_jax.engine import preemption
from rlaif_jax.core import protocols
from rlaif_jax.core import rng
from rlaif_jax.core import validation
from rlaif_jax.engine import guards
from rlaif_jax.engine import metrics as metrics_lib
from rlaif_jax.engine import processes
from rlaif_jax.engine import run_checkpoints
from rlaif_jax.engine import step as step_lib


class NonFiniteError(ValueError):
  """A metric is NaN or infinite."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig(validation.Validated):
  """Length of a training, its batches and its random seed.

  Attributes:
    num_steps: number of updates; 0: as many as `epochs` needs.
    epochs: passes over the rows; read where num_steps is 0.
    batch_size: rows (examples, pairs or prompts) per update.
    save_every: updates between checkpoints.
    evaluate_every: updates between evaluations; 0: one evaluation, at the end.
    evaluate_at: further steps at which to evaluate.
    seed: seed of initialisation, order and samples.
  """

  num_steps: validation.NonNegativeInt = 0
  epochs: validation.NonNegativeFloat = 0.0
  batch_size: validation.PositiveInt = 128
  save_every: validation.PositiveInt = 100
  evaluate_every: validation.NonNegativeInt = 0
  evaluate_at: tuple[validation.NonNegativeInt, ...] = ()
  seed: int = 0

  def __post_init__(self):
    super().__post_init__()
    if not self.num_steps and not self.epochs:
      raise ValueError(
        "TrainConfig.num_steps and TrainConfig.epochs are both 0; set one"
      )

  def evaluates_before(self, step: int) -> bool:
    """Returns whether the state after `step` updates, not the last, is due."""
    regular = self.evaluate_every and step % self.evaluate_every == 0
    return bool(regular) or step in self.evaluate_at

  def steps(self, num_rows: int) -> int:
    """Returns the number of updates of a training on `num_rows` rows.

    Raises:
      ValueError: if the number of epochs is set, and there are no rows.
    """
    if self.num_steps:
      return self.num_steps
    if num_rows < 1:
      raise ValueError(
        f"TrainConfig.epochs is {self.epochs} and the number of rows is "
        f"{num_rows}; epochs need rows"
      )
    return math.ceil(self.epochs * num_rows / self.batch_size)


StepFn = Callable[
  [step_lib.TrainState, protocols.Batch, jax.Array],
  tuple[step_lib.TrainState, step_lib.Metrics],
]


def fit(
  state: step_lib.TrainState,
  step_fn: StepFn,
  next_batch: protocols.NextBatch,
  *,
  config: TrainConfig,
  num_rows: int = 0,
  directory: str,
  name: str,
  evaluate: Callable[[protocols.Params, int], Mapping[str, float]]
  | None = None,
) -> step_lib.TrainState:
  """Trains for config.steps(num_rows) updates; resumes from a checkpoint.

  1. Restores the newest whole checkpoint in `directory`/checkpoints.
  2. Each step takes the batch of (state, step) and updates with the key of
     (seed, step). The update compiles in the first two calls of each shape,
     and does not synchronise with the host.
  3. Fetches the metrics of step n - 1 while step n runs.
  4. Saves every `save_every` steps, after a check that all metrics are finite.
  5. Calls `evaluate(params, step)` at the steps of the config and at the end.
     Its results go to evaluations.jsonl, the metrics of updates to
     metrics.jsonl, and the durations of steps and batches to timing.json.

  Args:
    state: initial state; a checkpoint is restored into its layout. Donated.
    step_fn: update from `step.make_train_step`.
    next_batch: (state, step) -> batch on the devices.
    config: length, batch size and seed.
    num_rows: number of rows of an epoch; read where config.num_steps is 0.
    directory: output directory of the run; "" keeps everything in memory,
      without checkpoints, files and progress line.
    name: name in the progress line, and of the random stream.
    evaluate: optional (params, step) -> metrics.

  Raises:
    NonFiniteError: if a metric is not finite; names it and the step. The last
      good checkpoint stays.
    preemption.Preempted: after saving, if the process was asked to stop.
    protocols.RewardError: from `next_batch`, after saving; Preempted likewise.
  """
  num_steps = config.steps(num_rows)
  files = _RunFiles(directory)
  state = files.restore(state)
  done = int(state.step)
  progress = metrics_lib.Progress(name, num_steps, done=done)
  clock = metrics_lib.StepClock()
  pending: tuple[int, step_lib.Metrics] | None = None
  seen: collections.Counter[object] = collections.Counter()

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

  for step in range(done, num_steps):
    if config.evaluates_before(step):
      flush()
      evaluate_now(step, state.params)
    with clock.time_batch():
      try:
        batch = next_batch(state, step)
      except (protocols.RewardError, preemption.Preempted):
        # The run resumes with this step once the reward has its value.
        flush()
        files.save(step, state)
        raise
    key = rng.key(config.seed, f"{name}/update", step)
    shape = guards.signature(batch)
    with guards.no_recompilation(f"{name}: step {step + 1}", seen[shape] >= 2):
      state, metrics = step_fn(state, batch, key)
    seen[shape] += 1
    flush()
    pending = (step + 1, metrics)
    stopping = processes.is_time_to_stop(step + 1, preemption.requested())
    if stopping or (step + 1) % config.save_every == 0:
      flush()
      files.save(step + 1, state)
    if stopping:
      raise preemption.Preempted(f"{name}: stopped after step {step + 1}")
  flush()
  files.write_timing(clock.summary())
  files.save(num_steps, state)
  evaluate_now(num_steps, state.params)
  return state


class _RunFiles:
  """Checkpoints, metrics, evaluations and timing; with no directory, none."""

  def __init__(self, directory: str):
    self._directory = directory
    self._checkpoints = None
    if directory:
      self._checkpoints = run_checkpoints.RunCheckpoints(
        f"{directory}/checkpoints"
      )
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


def fetch(step: int, metrics: step_lib.Metrics) -> dict[str, float]:
  """Fetches metrics to the host, divides sums by weights, and checks them.

  Raises:
    NonFiniteError: if a metric is NaN or infinite.
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
