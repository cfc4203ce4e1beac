# SPDX-License-Identifier: Apache-2.0
"""GGUF files: metadata, and tensors dequantized one at a time.

The `gguf` library reads the header and dequantizes. All sizes in a header are
checked against the file before tensors are read.
"""

from __future__ import annotations

import gc
import math
import os
import pathlib
from typing import TYPE_CHECKING, Mapping

import numpy as np

from rlaif_jax.core import inputs
from rlaif_jax.core import parsing
from rlaif_jax.interop import names

if TYPE_CHECKING:
  import gguf


class GGUFSource:
  """A GGUF file as a `protocols.TensorSource` of float32 tensors.

  `metadata` maps keys to Python values.

  Raises:
    ValueError: not a GGUF file, a truncated one, or a quantization that the
      library does not support; names the tensor.
  """

  def __init__(self, path: str | os.PathLike):
    import gguf

    self.path = pathlib.Path(path)
    inputs.note(self.path)
    size = self.path.stat().st_size
    with open(self.path, "rb") as file:
      if file.read(4) != b"GGUF":
        raise ValueError(f"{self.path} does not start with GGUF")
    try:
      reader = gguf.GGUFReader(self.path)
    except parsing.ERRORS as error:
      raise ValueError(
        f"{self.path} ({size} bytes) has an unreadable header or is "
        f"truncated: {type(error).__name__}: {error}"
      ) from error
    with parsing.naming(self.path):
      self._tensors = {tensor.name: tensor for tensor in reader.tensors}
      self._shapes = {
        name: tuple(int(n) for n in reversed(tensor.shape))
        for name, tensor in self._tensors.items()
      }
      for name, tensor in self._tensors.items():
        self._check(name, tensor, size)
      self.metadata: names.JsonObject = {
        key: field.contents() for key, field in reader.fields.items()
      }

  def _check(self, name: str, tensor: gguf.ReaderTensor, size: int) -> None:
    import gguf

    end = int(tensor.data_offset) + int(tensor.n_bytes)
    if end > size or tensor.data.nbytes != tensor.n_bytes:
      raise ValueError(
        f"{self.path}: tensor {name} ends at byte {end} and the file has "
        f"{size}; it is truncated"
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
    try:  # One row shows whether the library supports the type.
      row = tensor.data.reshape(-1, tensor.data.shape[-1])[:1]
      gguf.dequantize(row, kind)
    except NotImplementedError as error:
      raise ValueError(
        f"{self.path}: tensor {name} is quantized as {kind.name}, which the "
        "gguf library does not support; requantize the file, as Q4_K_M for "
        "example"
      ) from error

  def shapes(self) -> Mapping[str, tuple[int, ...]]:
    """Returns the shapes by tensor name, outermost axis first."""
    return self._shapes

  def read(self, name: str, *, borrow: bool = False) -> np.ndarray:
    """Returns a tensor as float32; see `protocols.TensorSource`."""
    import gguf

    tensor = self._tensors[name]
    values = gguf.dequantize(tensor.data, tensor.tensor_type)
    if not borrow and np.may_share_memory(values, tensor.data):
      values = values.copy()
    return values.reshape(self._shapes[name]).astype(np.float32, copy=False)

  def close(self) -> None:
    """Unmaps the file; gc breaks the reference cycles of the library."""
    self._tensors.clear()
    gc.collect()
