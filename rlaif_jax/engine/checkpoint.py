# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of runs, and finished models, with Orbax.

An incomplete checkpoint is never restored. A finished model is a directory with
`params` and, written last, `model.json`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import pathlib
import shutil
from typing import Mapping

import jax
from jaxtyping import PyTree
import numpy as np
import orbax.checkpoint as ocp

from rlaif_jax.core import jsonl
from rlaif_jax.core import parsing
from rlaif_jax.core import records
from rlaif_jax.engine import processes


_CHUNK = 64 << 20  # bytes


class RunCheckpoints:
  """The newest checkpoints of one run.

  A state is step, parameters and optimizer state. Batches and keys are
  functions of (seed, step), so there is no iterator state.
  """

  def __init__(self, directory: str | os.PathLike, *, keep: int = 2):
    self._manager = ocp.CheckpointManager(
      pathlib.Path(directory).absolute(),
      options=ocp.CheckpointManagerOptions(
        max_to_keep=keep, create=True, enable_async_checkpointing=False
      ),
    )

  def steps(self) -> list[int]:
    """Returns the steps with a complete checkpoint, oldest first."""
    return sorted(self._manager.all_steps())

  def save(self, step: int, state: PyTree) -> None:
    """Saves and waits; does nothing if the step is saved already."""
    if step not in self._manager.all_steps():
      self._manager.save(step, args=ocp.args.StandardSave(state))
      self._manager.wait_until_finished()

  def restore(self, state: PyTree, step: int | None = None) -> PyTree:
    """Restores a checkpoint with the shardings and dtypes of `state`.

    Args:
      state: arrays or shapes.
      step: None: the newest checkpoint.

    Returns:
      The restored state, or `state` itself if there is no checkpoint.
    """
    step = self._manager.latest_step() if step is None else step
    if step is None:
      return state
    target = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
    return self._manager.restore(step, args=ocp.args.StandardRestore(target))

  def close(self) -> None:
    self._manager.close()


def save_model(
  directory: str | os.PathLike,
  params: PyTree,
  description: Mapping[str, object],
  files: Mapping[str, bytes] | None = None,
) -> None:
  """Writes a finished model, model.json last.

  Args:
    directory: directory of the model; its previous content is removed.
    params: unboxed parameter tree.
    description: content of model.json.
    files: name -> content of further files, such as a tokenizer's.
  """
  directory = pathlib.Path(directory).absolute()
  if processes.is_writer():
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
  processes.wait_for_all(f"make {directory}")
  # Each chunk of a leaf is copied and compressed separately.
  chunks = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=_CHUNK), params)
  with _checkpointer(params) as checkpointer:
    checkpointer.save(
      directory / "params", args=ocp.args.StandardSave(params, chunks)
    )
  if processes.is_writer():
    for name, content in (files or {}).items():
      jsonl.write_bytes(directory / name, content)
    text = json.dumps(description, indent=2, sort_keys=True) + "\n"
    jsonl.write_text(directory / "model.json", text)
  processes.wait_for_all(f"wrote {directory}")


def _checkpointer(tree: PyTree) -> ocp.Checkpointer:
  """Returns a checkpointer that copies few leaves at a time."""
  leaves = jax.tree.leaves(tree)
  largest = max((math.prod(x.shape) * x.dtype.itemsize for x in leaves))
  gigabytes = 1 + largest // 10**9
  return ocp.Checkpointer(
    ocp.StandardCheckpointHandler(
      save_concurrent_gb=gigabytes, restore_concurrent_gb=gigabytes
    )
  )


def read_description(directory: str | os.PathLike) -> records.Row:
  """Returns the model.json of a finished model.

  Raises:
    ValueError: if there is no finished model.
  """
  path = pathlib.Path(directory) / "model.json"
  if not path.exists():
    raise ValueError(
      f"{directory} has no finished model (no model.json); finish the job that "
      "trains it, or name another directory"
    )
  return parsing.read_json(path)


def check_layers(directory: str | os.PathLike, num_layers: int) -> None:
  """Checks that a finished model has an array for each layer.

  Raises:
    ValueError: there are more layers than arrays; nothing was built yet.
  """
  stored = len(jax.tree.leaves(stored_dtypes(directory)))
  if num_layers > stored:
    raise ValueError(
      f"{directory}: the config has {num_layers} layers, and there are "
      f"{stored} arrays; put the original model.json back"
    )


def load_params(directory: str | os.PathLike, like: PyTree) -> PyTree:
  """Loads the parameters of a finished model.

  Args:
    directory: directory that `save_model` wrote.
    like: arrays or ShapeDtypeStructs with the shardings and dtypes to load.

  Raises:
    ValueError: if the shapes on disk differ; names the first parameter.
  """
  path = pathlib.Path(directory).absolute() / "params"
  with parsing.naming(directory), _checkpointer(like) as checkpointer:
    stored = _metadata(checkpointer, path)
    _check_shapes(directory, _shapes(stored), _shapes(like))
    return checkpointer.restore(path, args=ocp.args.StandardRestore(like))


def stored_dtypes(directory: str | os.PathLike) -> PyTree[np.dtype]:
  """Returns the dtypes of a finished model's parameters on disk."""
  path = pathlib.Path(directory).absolute() / "params"
  with parsing.naming(directory), ocp.StandardCheckpointer() as checkpointer:
    return jax.tree.map(lambda leaf: leaf.dtype, _metadata(checkpointer, path))


def _metadata(checkpointer: ocp.Checkpointer, path: pathlib.Path) -> PyTree:
  stored = checkpointer.metadata(path)
  stored = getattr(stored, "item_metadata", stored)
  return getattr(stored, "tree", stored)


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {
    "/".join(str(getattr(k, "key", k)) for k in path): tuple(leaf.shape)
    for path, leaf in leaves
  }


def _check_shapes(directory, stored, wanted) -> None:
  for name in sorted(set(stored) | set(wanted)):
    if stored.get(name) != wanted.get(name):
      raise ValueError(
        f"checkpoint {directory}: parameter {name} is "
        f"{stored.get(name, 'absent')} on disk and "
        f"{wanted.get(name, 'absent')} in the model; use the model config, "
        "vocabulary and kind of model of this checkpoint"
      )


def tree_hash(tree: PyTree) -> str:
  """Returns a hash of all leaves, for bit-exact comparison of runs."""
  digest = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    digest.update(str(path).encode())
    digest.update(np.asarray(leaf).tobytes())
  return digest.hexdigest()[:16]
