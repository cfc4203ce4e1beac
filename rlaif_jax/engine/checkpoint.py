# SPDX-License-Identifier: Apache-2.0
"""Finished models with Orbax, and what checkpoints of runs share with them.

A finished model is a directory with `params` and, written last, `model.json`
with their hashes. Orbax's own metadata of `params` says the same to a program
that knows Orbax alone: `StandardCheckpointer().metadata(path).custom_metadata`.
"""

from __future__ import annotations

import json
import math
import os
import pathlib
import types
from typing import Mapping

from absl import logging
import jax
from jaxtyping import PyTree
import numpy as np
import orbax.checkpoint as ocp

from rlaif_jax.core import folders
from rlaif_jax.core import jsonl
from rlaif_jax.core import parsing
from rlaif_jax.core import records
from rlaif_jax.core import versions
from rlaif_jax.engine import hashes
from rlaif_jax.engine import processes


# Of the layout of a finished model; increased when a reader must change.
FORMAT_VERSION = 1
_CHUNK = 64 << 20  # bytes
# Dtypes in which a finished model can be loaded.
_DTYPES = ("float32", "bfloat16")
# What Orbax raises for damaged files, besides Exception itself.
_READ_ERRORS = (ValueError, KeyError, AttributeError, OSError)


class DamagedError(ValueError):
  """Files of a checkpoint or a model cannot be read, or were changed."""


class Reading:
  """Raises a DamagedError in place of what Orbax raises for damaged files."""

  def __enter__(self) -> None:
    pass

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    _: types.TracebackType | None,
  ) -> None:
    # Orbax raises Exception itself, no subclass, with the reason as its cause.
    is_plain = kind is Exception
    if is_plain or isinstance(error, _READ_ERRORS):
      text = str((is_plain and error.__cause__) or error).partition("\n")[0]
      raise DamagedError(f"{kind.__name__}: {text:.200}") from error


def save_model(
  directory: str | os.PathLike,
  params: PyTree,
  description: Mapping[str, object],
  files: Mapping[str, bytes] | None = None,
) -> None:
  """Writes a finished model, model.json last.

  Args:
    directory: directory of the model. It is written beside it and renamed at
      the end; a model that this library wrote there before is replaced.
    params: unboxed parameter tree.
    description: content of model.json.
    files: name -> content of further files, such as a tokenizer's.

  Raises:
    ValueError: if the directory holds anything else, or a parameter is NaN or
      infinite; nothing is written then.
  """
  target = pathlib.Path(directory).absolute()
  found = hashes.scan(params, _DTYPES)
  _check_finite(target, found)
  content = content_hash(description, found.hashes["float32"])
  description = {**description, "hash": {"content": content, **found.hashes}}
  directory = folders.temporary(target)
  if processes.is_writer():
    folders.start(target)
  processes.wait_for_all(f"make {directory}")
  # Each chunk of a leaf is copied and compressed separately.
  chunks = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=_CHUNK), params)
  with _checkpointer(params) as checkpointer:
    checkpointer.save(
      directory / "params",
      args=ocp.args.StandardSave(params, chunks),
      custom_metadata={
        "format": "rlaif_jax model",
        "format_version": FORMAT_VERSION,
        "library_version": versions.of_library(),
        "model": json.loads(json.dumps(description)),
      },
    )
  if processes.is_writer():
    for name, content in (files or {}).items():
      jsonl.write_bytes(directory / name, content)
    text = json.dumps(description, indent=2, sort_keys=True) + "\n"
    jsonl.write_text(directory / "model.json", text)
    folders.finish(target)
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


def content_hash(description: Mapping[str, object], parameters: str) -> str:
  """Returns 16 hex digits that name a model's content.

  Args:
    description: content of model.json. Its "name" and "step" do not count.
    parameters: hash of the parameters in float32.
  """
  parts = {
    k: v for k, v in description.items() if k not in ("name", "step", "hash")
  }
  return records.content_id(parameters, json.dumps(parts, sort_keys=True))


def _check_finite(directory, found: hashes.Scan) -> None:
  if found.non_finite:
    name, count = next(iter(found.non_finite.items()))
    raise ValueError(
      f"{directory}: parameter {name} has {count} values that are NaN or "
      f"infinite ({len(found.non_finite)} parameters have some); the model is "
      "of no use. Make it again, with a lower learning rate if it was trained"
    )


def read_description(directory: str | os.PathLike) -> records.Row:
  """Returns the model.json of a finished model.

  Raises:
    ValueError: if there is no finished model.
    DamagedError: if model.json was changed.
  """
  path = pathlib.Path(directory) / "model.json"
  if not path.exists():
    raise ValueError(
      f"{directory} has no finished model (no model.json); finish the job that "
      "trains it, or name another directory"
    )
  try:
    description = parsing.read_json(path)
    is_whole = "hash" not in description
    if not is_whole:
      stored = description["hash"]
      content = content_hash(description, stored["float32"])
      is_whole = content == stored["content"]
      is_whole &= set(stored) == {"content", *_DTYPES}
  except (ValueError, KeyError, TypeError, AttributeError):
    is_whole = False
  if not is_whole:
    raise DamagedError(_damaged_model(path))
  return description


def identity_of(directory: str | os.PathLike) -> str:
  """Returns NAME@HASH, which names a finished model by its content.

  That of a model without hashes, from an earlier version, is its directory.
  """
  description = read_description(directory)
  if "hash" not in description:
    return str(directory)
  return f"{description['name']}@{description['hash']['content']}"


def _damaged_model(path: str | os.PathLike) -> str:
  return (
    f"{path} is damaged, or was changed since the model was saved; put a copy "
    "back, or make the model again by its job"
  )


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
  """Loads the parameters of a finished model, and verifies their hash.

  Args:
    directory: directory that `save_model` wrote.
    like: arrays or ShapeDtypeStructs with the shardings to load, and with one
      dtype, float32 or bfloat16, or that of each parameter on disk.

  Raises:
    DamagedError: if the files cannot be read, or have other values than those
      that were saved.
    ValueError: if the shapes on disk differ; names the first parameter.
  """
  path = pathlib.Path(directory).absolute() / "params"
  hash_of = read_description(directory).get("hash")
  try:
    with _checkpointer(like) as checkpointer:
      with Reading():
        stored = _metadata(checkpointer, path)
        if not jax.tree.leaves(stored):
          raise ValueError("its metadata cannot be read")
      _check_shapes(directory, stored, like)
      with Reading():
        params = checkpointer.restore(path, args=ocp.args.StandardRestore(like))
  except DamagedError as error:
    raise DamagedError(f"{_damaged_model(path)} ({error})") from error
  is_half = all(leaf.dtype == "bfloat16" for leaf in jax.tree.leaves(like))
  dtype = "bfloat16" if is_half else "float32"
  found = hashes.scan(params, [dtype])
  _check_finite(directory, found)
  if hash_of is None:
    logging.warning(
      "%s has no hashes, so damage to it is not noticed; write it again with "
      "them: --job=convert --source=%s --output_dir=NEW_DIR",
      directory,
      directory,
    )
  elif hash_of[dtype] != found.hashes[dtype]:
    raise DamagedError(_damaged_model(path))
  return params


def stored_dtypes(directory: str | os.PathLike) -> PyTree[np.dtype]:
  """Returns the dtypes of a finished model's parameters on disk."""
  path = pathlib.Path(directory).absolute() / "params"
  with parsing.naming(directory), ocp.StandardCheckpointer() as checkpointer:
    return jax.tree.map(lambda leaf: leaf.dtype, _metadata(checkpointer, path))


def _metadata(checkpointer: ocp.Checkpointer, path: pathlib.Path) -> PyTree:
  stored = checkpointer.metadata(path)
  stored = getattr(stored, "item_metadata", stored)
  return getattr(stored, "tree", stored)


def _check_shapes(directory, stored: PyTree, like: PyTree) -> None:
  shapes, wanted = (
    {name: shape for name, (shape, _) in hashes.shapes(tree).items()}
    for tree in (stored, like)
  )
  check_same(
    shapes,
    wanted,
    f"checkpoint {directory}",
    "use the model config, vocabulary and kind of model of this checkpoint",
  )


def check_same(stored: Mapping, wanted: Mapping, what: str, advice: str):
  """Checks that leaves have the same names and shapes on disk and here."""
  for name in sorted(set(stored) | set(wanted)):
    if stored.get(name) != wanted.get(name):
      raise ValueError(
        f"{what}: parameter {name} is {stored.get(name, 'absent')} on disk and "
        f"{wanted.get(name, 'absent')} in the model; {advice}"
      )
