# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of runs with Orbax.

An incomplete or damaged checkpoint is never restored.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
from typing import Mapping

from absl import logging
import jax
from jaxtyping import PyTree
import orbax.checkpoint as ocp

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.engine import checkpoint
from rlaif_jax.engine import hashes
from rlaif_jax.engine import processes


# End of the name of a directory that is being written or deleted.
_PARTIAL = ".partial"


class RunCheckpoints:
  """The newest checkpoints of one run.

  A state is step, parameters and optimizer state. Batches and keys are
  functions of (seed, step), so there is no iterator state. The directory of a
  step appears whole, with the state in `default` and its hashes in
  `hashes.json`. (Orbax's CheckpointManager fails as a whole if the metadata of
  one step are damaged.)

  Args:
    directory: directory of the checkpoints. Damaged ones are moved to
      `damaged_checkpoints` beside it.
    keep: number of checkpoints that are kept.
  """

  def __init__(self, directory: str | os.PathLike, *, keep: int = 2):
    self._directory = pathlib.Path(directory).absolute()
    self._keep = keep
    if processes.is_writer():
      self._directory.mkdir(parents=True, exist_ok=True)
      for path in self._directory.glob(f"*{_PARTIAL}"):
        shutil.rmtree(path)
    processes.wait_for_all(f"opened {self._directory}")
    names = [path.name for path in self._directory.iterdir() if path.is_dir()]
    steps = sorted(int(name) for name in names if name.isdecimal())
    # A network file system may show the others an earlier state.
    self._steps = processes.all_values(steps)[0]

  def steps(self) -> list[int]:
    """Returns the steps with a complete checkpoint, oldest first."""
    return list(self._steps)

  def save(self, step: int, state: PyTree) -> None:
    """Saves and waits; does nothing if the step is saved already."""
    if step in self._steps:
      return
    found = hashes.shard_hashes(state)
    partial = self._directory / f"{step}{_PARTIAL}"
    if processes.is_writer():
      partial.mkdir()
    processes.wait_for_all(f"make {partial}")
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
      checkpointer.save(partial / "default", args=ocp.args.StandardSave(state))
    self._steps = sorted([*self._steps, step])
    if processes.is_writer():
      row = {"hashes": found, "hash": _hash_of(found)}
      jsonl.write_text(partial / "hashes.json", jsonl.dump_row(row) + "\n")
      os.rename(partial, self._directory / str(step))
      for old in self._steps[: -self._keep]:
        doomed = self._directory / f"{old}{_PARTIAL}"
        os.rename(self._directory / str(old), doomed)
        shutil.rmtree(doomed)
    self._steps = self._steps[-self._keep :]
    processes.wait_for_all(f"wrote {partial}")

  def restore(self, state: PyTree, step: int | None = None) -> PyTree:
    """Restores a checkpoint with the shardings and dtypes of `state`.

    Damaged checkpoints are passed over and moved to `damaged_checkpoints`.

    Args:
      state: arrays or shapes.
      step: None: the newest checkpoint that is whole.

    Returns:
      The restored state, or `state` itself if there is no checkpoint.

    Raises:
      checkpoint.DamagedError: if there are checkpoints and none is whole.
      ValueError: if a checkpoint has other leaves, shapes or dtypes.
    """
    target = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
    damaged = {}
    for number in self.steps()[::-1] if step is None else [step]:
      try:
        restored = self._read(number, target)
      except checkpoint.DamagedError as error:
        damaged[number] = str(error)
        continue
      self._move_damaged(damaged, number)
      return restored
    if damaged:
      reasons = "; ".join(f"step {n}: {why}" for n, why in damaged.items())
      raise checkpoint.DamagedError(
        f"no checkpoint in {self._directory} is whole ({reasons}). Put a copy "
        "of one back, or start again in a new --output_dir"
      )
    return state

  def _read(self, step: int, target: PyTree) -> PyTree:
    """Restores one checkpoint in all processes, or in none.

    Orbax's handler is used without a Checkpointer, which would wait for a
    process that has failed.
    """
    folder = self._directory / str(step)
    reason, restored, expected = "", None, {}
    try:
      with checkpoint.Reading():
        expected = _read_hashes(folder)
      _check_leaves(folder, expected, target)
      with checkpoint.Reading():
        restored = ocp.StandardCheckpointHandler().restore(
          folder / "default", args=ocp.args.StandardRestore(target)
        )
    except checkpoint.DamagedError as error:
      reason = str(error)
    # All processes take the same checkpoint.
    reasons = [text for text in processes.all_values(reason) if text]
    if reasons:
      raise checkpoint.DamagedError(reasons[0])
    if changed := hashes.changed_leaves(restored, expected):
      raise checkpoint.DamagedError(
        f"tensor {changed[0]} differs from its hash, with {len(changed) - 1} "
        f"others of {len(expected)}"
      )
    return restored

  def _move_damaged(self, damaged: Mapping[int, str], taken: int) -> None:
    """Moves damaged checkpoints away, so that their steps are saved again."""
    for step, reason in damaged.items():
      target = self._directory.with_name("damaged_checkpoints") / str(step)
      while target.exists():
        target = target.with_name(f"{target.name}_")
      if processes.is_writer():
        target.parent.mkdir(exist_ok=True)
        os.rename(self._directory / str(step), target)
        logging.warning(
          "%s: the checkpoint of step %d is damaged (%s); moved it to %s and "
          "resuming from step %d",
          self._directory,
          step,
          reason,
          target,
          taken,
        )
    self._steps = [step for step in self._steps if step not in damaged]
    processes.wait_for_all(f"took step {taken}")


def _read_hashes(folder: pathlib.Path) -> dict[str, records.Row]:
  """Returns the hashes that `RunCheckpoints.save` stored with a state."""
  stored = json.loads((folder / "hashes.json").read_text("utf-8"))
  if _hash_of(stored["hashes"]) != stored["hash"]:
    raise ValueError("hashes.json was changed")
  return stored["hashes"]


def _hash_of(row: records.Row) -> str:
  return records.content_id(json.dumps(row, sort_keys=True))


def _check_leaves(
  folder: pathlib.Path, expected: Mapping[str, records.Row], target: PyTree
) -> None:
  """Checks that a whole checkpoint is one of this run's model and optimizer."""
  stored = {
    name: (tuple(row["shape"]), row["dtype"]) for name, row in expected.items()
  }
  checkpoint.check_same(
    stored,
    hashes.shapes(target),
    f"checkpoint {folder}",
    "use the config of the model and of the optimizer that the run began with, "
    "or start in a new --output_dir",
  )
