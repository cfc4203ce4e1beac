# SPDX-License-Identifier: Apache-2.0
"""Hugging Face weight files: one safetensors file, or shards with an index.

Tensors are read one at a time and written in shards. Pickles are not opened.
"""

from __future__ import annotations

import json
import os
import pathlib
from typing import TYPE_CHECKING, Callable, Iterable, Mapping

import jax.numpy as jnp
import numpy as np

from rlaif_jax.core import inputs
from rlaif_jax.core import parsing
from rlaif_jax.interop import buffers
from rlaif_jax.interop import names

if TYPE_CHECKING:
  import safetensors

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_DTYPES = {
  "F32": np.float32,
  "F16": np.float16,
  "BF16": jnp.bfloat16,
  "F64": np.float64,
}


class SafetensorsSource:
  """The tensors of a model directory, as a `protocols.TensorSource`.

  `is_skipped` returns whether a tensor is left out by its name.

  Raises:
    ValueError: no weights, weights in pickles only, an index with paths outside
      the directory or a missing shard, a truncated file, or a tensor that is
      not of a float type.
  """

  def __init__(
    self,
    directory: str | os.PathLike,
    *,
    is_skipped: Callable[[str], bool] = lambda name: False,
  ):
    self.directory = pathlib.Path(directory)
    self._files: dict[str, safetensors.safe_open] = {}
    self._headers: dict[str, tuple[int, names.JsonObject]] = {}
    self._where = self._locate()
    self._shapes = {}
    for name, file in self._where.items():
      if is_skipped(name):
        continue
      part = self._open(file).get_slice(name)
      if part.get_dtype() not in _DTYPES:
        raise ValueError(
          f"{self.directory / file}: tensor {name} has the type "
          f"{part.get_dtype()}; supported are {tuple(_DTYPES)}"
        )
      self._shapes[name] = tuple(part.get_shape())

  def _locate(self) -> dict[str, str]:
    """Returns the file name of each tensor."""
    if (self.directory / INDEX).is_file():
      path = parsing.inside(self.directory, INDEX)
      where = parsing.read_json(path).get("weight_map")
      if not isinstance(where, dict) or not where:
        raise ValueError(f"{path} has no weight_map")
      if not all(isinstance(file, str) for file in where.values()):
        raise ValueError(f"{path}: weight_map has a file that is no text")
      for file in sorted(set(where.values())):
        if pathlib.PurePath(file).name != file or file in ("", ".", ".."):
          raise ValueError(
            f"{path} names the file {file!r:.80}; shards must be in its "
            "directory"
          )
        if not (self.directory / file).is_file():
          raise ValueError(f"{path} names {file}, which is missing")
        held = set(self._open(file).keys())
        lost = sorted(
          n for n, f in where.items() if f == file and n not in held
        )
        if lost:
          raise ValueError(f"{self.directory / file} has no tensor {lost[0]}")
      return where
    if (self.directory / SINGLE).is_file():
      return dict.fromkeys(self._open(SINGLE).keys(), SINGLE)
    pickles = sorted(self.directory.glob("*.bin"))
    hint = (
      f"; {pickles[0].name} is a pickle, which is not loaded: save the model "
      "with safe_serialization=True"
      if pickles
      else ""
    )
    raise ValueError(f"{self.directory} has neither {SINGLE} nor {INDEX}{hint}")

  def _open(self, file: str) -> safetensors.safe_open:
    import safetensors

    if file not in self._files:
      path = inputs.note(parsing.inside(self.directory, file))
      try:
        self._files[file] = safetensors.safe_open(path, framework="numpy")
        self._headers[file] = _read_header(path)
      except (safetensors.SafetensorError, *parsing.ERRORS) as error:
        raise ValueError(
          f"{path} is not a complete safetensors file: {parsing.reason(error)}"
        ) from error
    return self._files[file]

  def shapes(self) -> Mapping[str, tuple[int, ...]]:
    """Returns the shapes by tensor name."""
    return self._shapes

  def read(self, name: str, *, borrow: bool = False) -> np.ndarray:
    """Returns a tensor in its stored dtype; see `protocols.TensorSource`.

    safetensors has checked the file; its reader would copy a tensor twice.
    """
    path = self.directory / self._where[name]
    begin, header = self._headers[self._where[name]]
    kind = np.dtype(_DTYPES[header[name]["dtype"]])
    make = buffers.scratch if borrow else buffers.aligned_empty
    array = make(self._shapes[name], kind)
    with open(path, "rb", buffering=0) as f:
      f.seek(begin + header[name]["data_offsets"][0])
      rest = memoryview(array.reshape(-1).view(np.uint8))
      while rest:
        count = f.readinto(rest)
        if not count:
          raise ValueError(f"{path} is truncated inside tensor {name}")
        rest = rest[count:]
    return array

  def close(self) -> None:
    """Closes the files."""
    self._files.clear()


def _read_header(path: pathlib.Path) -> tuple[int, names.JsonObject]:
  """Returns the offset of the tensors and the header of a checked file.

  The first eight bytes are the length of the JSON header that follows (format
  documentation in huggingface/safetensors).
  """
  with open(path, "rb") as f:
    length = int.from_bytes(f.read(8), "little")
    return 8 + length, json.loads(f.read(length))


def write(
  directory: str | os.PathLike,
  tensors: Iterable[tuple[str, np.ndarray]],
  *,
  shard_bytes: int = 2 << 30,
) -> None:
  """Writes tensors one shard at a time, then the index.

  Args:
    directory: model directory. Files are renamed when they are complete.
    tensors: (name, array) pairs; at most one shard of them is in memory.
    shard_bytes: maximum size of the tensors in one file.
  """
  directory = pathlib.Path(directory)
  directory.mkdir(parents=True, exist_ok=True)
  shards: list[list[str]] = []
  held: dict[str, np.ndarray] = {}
  total = 0
  for name, array in tensors:
    size = sum(part.nbytes for part in held.values())
    if held and size + array.nbytes > shard_bytes:
      shards.append(_save_shard(directory, len(shards), held))
      held = {}
    held[name] = np.ascontiguousarray(array)
    total += array.nbytes
  shards.append(_save_shard(directory, len(shards), held))
  if len(shards) == 1:
    os.replace(directory / _partial(0), directory / SINGLE)
    return
  where = {}
  for number, held_names in enumerate(shards):
    file = f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors"
    os.replace(directory / _partial(number), directory / file)
    where |= dict.fromkeys(held_names, file)
  index = {"metadata": {"total_size": total}, "weight_map": where}
  (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")


def _partial(number: int) -> str:
  return f".shard-{number}.partial"


def _save_shard(directory, number, held) -> list[str]:
  save_file(directory / _partial(number), held)
  return list(held)


def save_file(path: pathlib.Path, tensors: Mapping[str, np.ndarray]) -> None:
  """Writes one safetensors file.

  Raises:
    OSError: it cannot be written, such as on a full disk; names the file.
  """
  import safetensors.numpy

  try:
    safetensors.numpy.save_file(dict(tensors), path, metadata={"format": "pt"})
  except safetensors.SafetensorError as error:
    raise OSError(f"{path}: {error}") from error
