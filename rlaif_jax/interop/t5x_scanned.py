# SPDX-License-Identifier: Apache-2.0
"""T5X checkpoints of models with `scan_layers`: all layers in one array.

encoder/encoder/mlp/wi_0/kernel [D, layers, F] holds what other checkpoints have
as encoder/layers_N/mlp/wi_0/kernel [D, F]. Axis 1 counts the layers (T5X's
`param_scan_axis`). Each layer has a relative bias of its own there; this
library has one per stack, as T5, so that all must be equal. The whole array is
read again for each layer.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Iterable, Iterator, Mapping

import numpy as np

from rlaif_jax.core import protocols

_AXIS = 1
_STACKED = re.compile(r"(encoder|decoder)/\1/(.*)")
_LAYER = re.compile(r"(encoder|decoder)/layers_(\d+)/(.*)")
_BIAS = "relpos_bias/rel_embedding"


def is_scanned(names: Iterable[str]) -> bool:
  """Returns whether parameters have the names of a scanned model."""
  return any(_STACKED.fullmatch(name) for name in names)


@dataclasses.dataclass(frozen=True)
class ScannedSource:
  """A scanned checkpoint as a `protocols.TensorSource` of single layers.

  Attributes:
    source: the checkpoint.
    layers: number of layers by stack, "encoder" and "decoder".
  """

  source: protocols.TensorSource
  layers: Mapping[str, int]

  def shapes(self) -> dict[str, tuple[int, ...]]:
    """Returns the shapes by the names of an unscanned checkpoint.

    Raises:
      ValueError: an array has another number of layers.
    """
    found = {}
    for name, shape in self.source.shapes().items():
      if not (match := _STACKED.fullmatch(name)):
        found[name] = shape
        continue
      stack, rest = match.groups()
      number = shape[_AXIS] if len(shape) > _AXIS else None
      if number != self.layers[stack]:
        raise ValueError(
          f"tensor {name} has shape {shape}, {number} layers on axis {_AXIS}; "
          f"the configuration has {self.layers[stack]} in the {stack}"
        )
      one = shape[:_AXIS] + shape[_AXIS + 1 :]
      if rest == _BIAS:
        found[f"{stack}/{_BIAS}"] = one
        continue
      for layer in range(number):
        found[f"{stack}/layers_{layer}/{rest}"] = one
    return found

  def read(self, name: str, *, borrow: bool = False) -> np.ndarray:
    """Returns the parameter of a layer; see `protocols.TensorSource`.

    Raises:
      ValueError: the layers of a stack have different relative biases.
    """
    if match := _LAYER.fullmatch(name):
      stack, layer, rest = match.groups()
      whole = self.source.read(f"{stack}/{stack}/{rest}")
      return np.ascontiguousarray(np.take(whole, int(layer), _AXIS))
    stack, _, rest = name.partition("/")
    if rest != _BIAS:
      return self.source.read(name, borrow=borrow)
    whole = self.source.read(f"{stack}/{stack}/{_BIAS}")
    first = np.take(whole, [0], _AXIS)
    if not np.array_equal(whole, np.broadcast_to(first, whole.shape)):
      raise ValueError(
        f"tensor {stack}/{stack}/{_BIAS}: the layers have different relative "
        "biases; supported are checkpoints in which they are equal"
      )
    return np.ascontiguousarray(first.squeeze(_AXIS))

  def close(self) -> None:
    """Frees the checkpoint."""
    self.source.close()


def stacked(
  params: Iterable[tuple[str, np.ndarray]], layers: Mapping[str, int]
) -> Iterator[tuple[str, np.ndarray]]:
  """Yields the parameters of a scanned model; inverse of `ScannedSource`.

  Args:
    params: (name, array) pairs of single layers.
    layers: number of layers by stack.
  """
  held: dict[str, dict[int, np.ndarray]] = {}
  for name, array in params:
    stack, _, rest = name.partition("/")
    if rest == _BIAS:
      copies = [array] * layers[stack]
      yield f"{stack}/{stack}/{_BIAS}", np.stack(copies, _AXIS)
    elif match := _LAYER.fullmatch(name):
      stack, layer, rest = match.groups()
      whole = f"{stack}/{stack}/{rest}"
      parts = held.setdefault(whole, {})
      parts[int(layer)] = array
      if len(parts) == layers[stack]:
        held.pop(whole)
        yield whole, np.stack([parts[n] for n in sorted(parts)], _AXIS)
    else:
      yield name, array
