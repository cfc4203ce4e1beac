# SPDX-License-Identifier: Apache-2.0
"""Hugging Face weight files: one safetensors file, or shards with an index.

Read one tensor at a time; written in shards. Pickles are never opened.
"""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any, Iterable, Mapping

import jax.numpy as jnp
import numpy as np

from rlaif_jax.interop import buffers

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_DTYPES = {
  "F32": np.float32,
  "F16": np.float16,
  "BF16": jnp.bfloat16,
  "F64": np.float64,
}


def read_json(path: str | os.PathLike) -> dict[str, Any]:
  """A JSON object of a file.

  Raises:
    ValueError: no such file, or no JSON object in it.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise ValueError(f"{path} is missing")
  try:
    values = json.loads(path.read_text("utf-8"))
  except ValueError as error:
    raise ValueError(f"{path} is no JSON: {error}") from error
  if not isinstance(values, dict):
    raise ValueError(f"{path} holds a {type(values).__name__}, not an object")
  return values


class SafetensorsSource:
  """The tensors of a model directory; a `protocols.TensorSource`.

  Raises:
    ValueError: no weights, weights in pickles only, an index that leaves the
      directory or names a missing shard, a file that is not whole, a tensor
      of a type that is no float.
  """

  def __init__(self, directory: str | os.PathLike):
    self.directory = pathlib.Path(directory)
    self._files: dict[str, Any] = {}
    self._headers: dict[str, tuple[int, dict[str, Any]]] = {}
    self._where = self._locate()
    self._shapes = {}
    for name, file in self._where.items():
      part = self._open(file).get_slice(name)
      if part.get_dtype() not in _DTYPES:
        raise ValueError(
          f"{self.directory / file}: tensor {name} has the type "
          f"{part.get_dtype()}; supported are {tuple(_DTYPES)}"
        )
      self._shapes[name] = tuple(part.get_shape())

  def _locate(self) -> dict[str, str]:
    """Tensor name -> file name."""
    if (self.directory / INDEX).is_file():
      path = self.directory / INDEX
      where = read_json(path).get("weight_map")
      if not isinstance(where, dict) or not where:
        raise ValueError(f"{path} has no weight_map")
      for file in sorted(set(map(str, where.values()))):
        if pathlib.PurePath(file).name != file or file in ("", ".", ".."):
          raise ValueError(
            f"{path} names the file {file!r}; shards lie beside their index"
          )
        if not (self.directory / file).is_file():
          raise ValueError(f"{path} names {file}, which is missing")
        held = set(self._open(file).keys())
        lost = sorted(
          n for n, f in where.items() if f == file and n not in held
        )
        if lost:
          raise ValueError(f"{self.directory / file} lacks tensor {lost[0]}")
      return where
    if (self.directory / SINGLE).is_file():
      return dict.fromkeys(self._open(SINGLE).keys(), SINGLE)
    pickles = sorted(self.directory.glob("*.bin"))
    hint = (
      f"; {pickles[0].name} is a pickle, which is never loaded: save the model "
      "with safe_serialization=True"
      if pickles
      else ""
    )
    raise ValueError(
      f"{self.directory} holds neither {SINGLE} nor {INDEX}{hint}"
    )

  def _open(self, file: str) -> Any:
    import safetensors

    if file not in self._files:
      try:
        self._files[file] = safetensors.safe_open(
          self.directory / file, framework="numpy"
        )
        self._headers[file] = _read_header(self.directory / file)
      except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(
          f"{self.directory / file} is no whole safetensors file: {error}"
        ) from error
    return self._files[file]

  def shapes(self) -> Mapping[str, tuple[int, ...]]:
    """Tensor -> shape."""
    return self._shapes

  def read(self, name: str, *, borrow: bool = False) -> np.ndarray:
    """One tensor, in the type it is stored in; see `protocols.TensorSource`.

    safetensors has checked the file; its own reader copies a tensor twice.
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
          raise ValueError(f"{path} ends inside the tensor {name}")
        rest = rest[count:]
    return array

  def close(self) -> None:
    """Lets go of the files."""
    self._files.clear()


def _read_header(path: pathlib.Path) -> tuple[int, dict[str, Any]]:
  """Where the tensors begin, and the header; of a file that was checked.

  Eight bytes hold the header's length, then comes JSON (the format's
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
  """Writes tensors as they come, a shard at a time, then the index.

  Args:
    directory: of the model; files appear whole or not at all.
    tensors: (name, array) one by one; at most a shard is held.
    shard_bytes: of the tensors in one file.
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
  import safetensors.numpy

  safetensors.numpy.save_file(
    held, directory / _partial(number), metadata={"format": "pt"}
  )
  return list(held)
