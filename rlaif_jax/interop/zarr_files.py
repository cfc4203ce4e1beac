# SPDX-License-Identifier: Apache-2.0
"""Reads zarr (format 2) arrays in a directory without trusting its files.

Arrays are in files of their own or in one OCDBT store. tensorstore reads both,
with checked paths relative to the directory. Headers are checked against the
files: tensorstore would read a missing chunk as zeros, and allocate any amount
of memory for a wrong shape.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import re
import jax.numpy as jnp
import numpy as np

from rlaif_jax.core import parsing
from rlaif_jax.interop import names

_HEADER_BYTES = 2**20
# Maximum compression ratio of a chunk.
_RATIO = {None: 1, "gzip": 1100, "zlib": 1100, "zstd": 2**16}
_READ_ERRORS = (ValueError, OSError, RuntimeError, NotImplementedError)


def plain_name(file: pathlib.Path, name: object) -> str:
  """Returns the name of a file or folder after checking it.

  Raises:
    ValueError: it is empty, '..', or has a separator; names `file`, which has
      the name.
  """
  plain = isinstance(name, str) and not re.search(r"[/\\\0]", name)
  if not plain or name in ("", ".", ".."):
    raise ValueError(
      f"{file}: {name!r} is not a plain name; absolute paths and empty or '..' "
      "parts are not allowed"
    )
  return name


def plain_path(file: pathlib.Path, path: object) -> list[str]:
  """Returns the checked names in a relative path; see `plain_name`."""
  parts = path.split("/") if isinstance(path, str) else [path]
  try:
    return [plain_name(file, part) for part in parts]
  except ValueError as error:
    raise ValueError(f"{error} (in {path!r})") from error


def are_sizes(value: object, least: int = 0) -> bool:
  """Returns whether a value is a list of integers that can be sizes."""
  return isinstance(value, list) and all(
    type(size) is int and least <= size < 2**48 for size in value
  )


@dataclasses.dataclass(frozen=True)
class ZarrArray:
  """A zarr array in a store; `dtype` is None before it is checked."""

  store: Files | Ocdbt
  path: str
  shape: tuple[int, ...] | None = None
  dtype: np.dtype | None = None

  def checked(self) -> ZarrArray:
    """Returns the array with its header's shape and dtype after checking them.

    Raises:
      ValueError: no valid header, another shape than `shape`, or a missing
        chunk.
    """
    header = self._header()
    shape, chunks = tuple(header["shape"]), header["chunks"]
    if self.shape not in (None, shape):
      raise ValueError(
        f"{self.path}/.zarray: expected shape {self.shape}, which the "
        f"checkpoint's spec has, found {shape}"
      )
    dtype = _dtype_of(header["dtype"])
    compressor = header["compressor"]
    ratio = _RATIO[compressor["id"] if compressor else None]
    needed = math.prod(chunks) * dtype.itemsize
    grid = [-(-size // chunk) for size, chunk in zip(shape, chunks)]
    for number in range(math.prod(grid)):
      index = []
      for size in reversed(grid):
        number, place = divmod(number, size)
        index.append(str(place))
      key = header.get("dimension_separator", ".").join(reversed(index)) or "0"
      size = self.store.size(f"{self.path}/{key}")
      if size is None or size * ratio < needed:
        raise ValueError(
          f"{self.path}/{key}: expected a chunk of {needed} bytes unpacked "
          f"(the grid is {grid}), found {size or 'no'} bytes"
        )
    if dtype == np.uint16:
      dtype = jnp.dtype(jnp.bfloat16)
    return dataclasses.replace(self, shape=shape, dtype=dtype)

  def read(self) -> np.ndarray:
    """Returns the whole array; uint16 is bfloat16 (T5X's version 2).

    Raises:
      ValueError: a chunk is damaged.
    """
    import tensorstore as ts

    spec = {"driver": "zarr", "kvstore": self.store.kvstore(f"{self.path}/")}
    try:
      array = ts.open(spec, open=True, read=True).result().read().result()
    except _READ_ERRORS as error:
      raise ValueError(
        f"{self.store.directory}: tensor {self.path}: damaged: {error}"
      ) from error
    array = array.view(self.dtype) if array.dtype == np.uint16 else array
    if array.shape != self.shape or array.dtype != self.dtype:
      raise ValueError(
        f"{self.store.directory}: tensor {self.path}: expected {self.shape} "
        f"{self.dtype}, found {array.shape} {array.dtype}"
      )
    return array

  def _header(self) -> names.JsonObject:
    name = f"{self.path}/.zarray"
    if self.store.size(name) is None:
      raise ValueError(f"{name}: expected a zarr header, found no such file")
    data = self.store.read(name)
    try:
      header = parsing.json_value(data)
      shape, chunks = header["shape"], header["chunks"]
      compressor = header["compressor"]
      good = (
        header["zarr_format"] == 2
        and are_sizes(shape)
        and are_sizes(chunks, 1)
        and len(shape) == len(chunks)
        and all(c <= max(s, 1) for s, c in zip(shape, chunks))
        and (compressor["id"] if compressor else None) in _RATIO
        and header["filters"] is None
        and header.get("dimension_separator", ".") in (".", "/")
        and _dtype_of(header["dtype"]) is not None
      )
    except parsing.ERRORS:
      good = False
    if not good:
      raise ValueError(
        f"{name}: expected a zarr 2 header of a plain array, found {data[:300]}"
      )
    return header


def _dtype_of(text: str) -> np.dtype:
  """Returns the dtype of a zarr header; numbers and booleans only."""
  if text == "bfloat16":
    return jnp.dtype(jnp.bfloat16)
  if not re.fullmatch(r"[<>|][fiub]\d", text):
    raise ValueError(f"dtype {text!r}")
  return np.dtype(text).newbyteorder("=")


def open_store(directory: pathlib.Path) -> Files | Ocdbt:
  """Returns the arrays of a folder in either format."""
  if (directory / "manifest.ocdbt").is_file():
    return Ocdbt(directory)
  return Files(directory)


class Files:
  """Files under a directory, by relative path."""

  def __init__(self, directory: pathlib.Path):
    self.directory = directory

  def size(self, key: str) -> int | None:
    """Returns the size of a file; None if missing or outside the directory."""
    path = (self.directory / key).resolve()
    inside = path.is_relative_to(self.directory.resolve())
    return path.stat().st_size if inside and path.is_file() else None

  def read(self, key: str) -> bytes:
    """Returns the first bytes of a file."""
    with open(self.directory / key, "rb") as file:
      return file.read(_HEADER_BYTES)

  def kvstore(self, path: str) -> names.JsonObject:
    """Returns tensorstore's spec of a path."""
    return {"driver": "file", "path": f"{self.directory}/{path}"}


class Ocdbt:
  """Keys of an OCDBT store, by name."""

  def __init__(self, directory: pathlib.Path):
    import tensorstore as ts

    self.directory = directory
    try:
      self._values = ts.KvStore.open(self.kvstore("")).result()
      self._keys = {key.decode() for key in self._values.list().result()}
    except _READ_ERRORS as error:
      raise ValueError(f"{directory}/manifest.ocdbt: {error}") from error
    files = [path for path in directory.rglob("*") if path.is_file()]
    self._size = sum(path.stat().st_size for path in files)

  def size(self, key: str) -> int | None:
    """Returns an upper bound of a key's size; None if it is missing."""
    return self._size if key in self._keys else None

  def read(self, key: str) -> bytes:
    """Returns the first bytes of a key."""
    try:
      return bytes(self._values.read(key).result().value[:_HEADER_BYTES])
    except _READ_ERRORS as error:
      raise ValueError(f"{key}: {error}") from error

  def kvstore(self, path: str) -> names.JsonObject:
    """Returns tensorstore's spec of a path."""
    base = {"driver": "file", "path": f"{self.directory}/"}
    return {"driver": "ocdbt", "base": base, "path": path}


def chunk_shape(shape: tuple[int, ...], elements: int) -> list[int]:
  """Returns T5X's chunk shape: at most `elements`, and dividing `shape`.

  The largest axis (the first of equal ones) is reduced to its next smaller
  divisor until a chunk is small enough.
  """
  chunks = [max(size, 1) for size in shape]
  while math.prod(chunks) > elements:
    axis = int(np.argmax(chunks))
    chunks[axis] = next(
      size for size in range(chunks[axis] - 1, 0, -1) if not shape[axis] % size
    )
  return chunks
