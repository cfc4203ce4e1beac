# SPDX-License-Identifier: Apache-2.0
"""GGUF files: metadata, and tensors dequantised one at a time.

The `gguf` library reads the header and dequantises; every size that a header
claims is checked against the file before anything is read.
"""

from __future__ import annotations

import gc
import math
import os
import pathlib
from typing import Any, Mapping

import numpy as np


# What the library runs into in a file that is not what it says.
_STUMBLES = (
  ArithmeticError,
  AttributeError,
  LookupError,
  MemoryError,
  OSError,
  TypeError,
  ValueError,
)


class GGUFSource:
  """A GGUF file as a `protocols.TensorSource`; tensors come as float32.

  `metadata` maps keys to plain Python values.

  Raises:
    ValueError: not a GGUF file, one that is not whole, or a quantisation that
      the library cannot undo, with the tensor's name.
  """

  def __init__(self, path: str | os.PathLike):
    import gguf

    self.path = pathlib.Path(path)
    size = self.path.stat().st_size
    with open(self.path, "rb") as file:
      if file.read(4) != b"GGUF":
        raise ValueError(f"{self.path} does not begin with GGUF")
    try:
      reader = gguf.GGUFReader(self.path)
    except _STUMBLES as error:
      raise ValueError(
        f"{self.path} ({size} bytes) has a header that cannot be read, or the "
        f"file was cut: {type(error).__name__}: {error}"
      ) from error
    self._tensors = {tensor.name: tensor for tensor in reader.tensors}
    self._shapes = {
      name: tuple(int(n) for n in reversed(tensor.shape))
      for name, tensor in self._tensors.items()
    }
    for name, tensor in self._tensors.items():
      self._check(name, tensor, size)
    self.metadata: dict[str, Any] = {
      key: field.contents() for key, field in reader.fields.items()
    }

  def _check(self, name: str, tensor: Any, size: int) -> None:
    import gguf

    end = int(tensor.data_offset) + int(tensor.n_bytes)
    if end > size or tensor.data.nbytes != tensor.n_bytes:
      raise ValueError(
        f"{self.path}: tensor {name} ends at byte {end} and the file has "
        f"{size}; it was cut"
      )
    kind = tensor.tensor_type
    block, bytes_each = gguf.GGML_QUANT_SIZES[kind]
    count = math.prod(self._shapes[name])
    if count % block or count // block * bytes_each != tensor.n_bytes:
      raise ValueError(
        f"{self.path}: tensor {name} of type {kind.name} and shape "
        f"{self._shapes[name]} needs {count // block * bytes_each} bytes and "
        f"has {tensor.n_bytes}"
      )
    try:  # One row tells whether the library knows this type.
      row = tensor.data.reshape(-1, tensor.data.shape[-1])[:1]
      gguf.dequantize(row, kind)
    except NotImplementedError as error:
      raise ValueError(
        f"{self.path}: tensor {name} is quantised as {kind.name}, which the "
        "gguf library cannot undo; requantise the file, Q4_K_M for example"
      ) from error

  def shapes(self) -> Mapping[str, tuple[int, ...]]:
    """Tensor -> shape, outermost axis first."""
    return self._shapes

  def read(self, name: str, *, borrow: bool = False) -> np.ndarray:
    """One tensor, dequantised to float32; see `protocols.TensorSource`."""
    import gguf

    tensor = self._tensors[name]
    values = gguf.dequantize(tensor.data, tensor.tensor_type)
    if not borrow and np.may_share_memory(values, tensor.data):
      values = values.copy()
    return values.reshape(self._shapes[name]).astype(np.float32, copy=False)

  def close(self) -> None:
    """Unmaps the file; the library's records of it refer to each other."""
    self._tensors.clear()
    gc.collect()
