# SPDX-License-Identifier: Apache-2.0
"""Tables of parameter names, for reading and writing public layouts.

A rule maps a tensor of a public layout to one of our parameters and describes
the order of its axes.
"""

from __future__ import annotations

import collections
import math
import os
from concurrent import futures
from typing import Any, Callable, Iterator, Mapping, NamedTuple

from jaxtyping import PyTree
import numpy as np

from rlaif_jax.core import protocols
from rlaif_jax.interop import buffers

# A JSON object, or metadata of a file like one.
JsonObject = Mapping[str, Any]

# Maximum number of bytes that are read ahead.
_READ_AHEAD = 256 << 20
# Number of values that are checked at a time.
_PIECE = 1 << 16


def require(values: JsonObject, key: str, *allowed: object) -> None:
  """Raises ValueError if a key is present with a value not supported."""
  if key in values and values[key] not in allowed:
    raise ValueError(
      f"{key} is {values[key]!r}; supported is "
      f"{' or '.join(map(repr, allowed))}"
    )


class Rule(NamedTuple):
  """A parameter of ours and the tensor of a public layout.

  Attributes:
    ours: name of our parameter, such as "blocks_0/attention/query/kernel".
    theirs: name of their tensor.
    inputs: number of leading axes of our kernel that are inputs; their matrix
      is [outputs, inputs] over the flattened axes. 0 is the same array,
      flattened if it is a bias; -1 is a 2-D transpose.
    rotary_heads: if > 0, their rows have this many heads with channel pairs
      (2 i, 2 i + 1), where ours are half a head apart.
    shift: number added to their values (GGUF stores Gemma's 1 + scale).
  """

  ours: str
  theirs: str
  inputs: int = 0
  rotary_heads: int = 0
  shift: float = 0.0


def _pairs_to_halves(array: np.ndarray, heads: int) -> np.ndarray:
  rows = array.reshape(heads, -1, 2, *array.shape[1:])
  return rows.swapaxes(1, 2).reshape(array.shape)


def _halves_to_pairs(array: np.ndarray, heads: int) -> np.ndarray:
  rows = array.reshape(heads, 2, -1, *array.shape[1:])
  return rows.swapaxes(1, 2).reshape(array.shape)


def their_shape(rule: Rule, shape: tuple[int, ...]) -> tuple[int, ...]:
  """Returns the shape of their tensor for our parameter of a shape."""
  if rule.inputs == -1:
    return shape[::-1]
  if rule.inputs == 0:
    return (int(np.prod(shape)),) if rule.ours.endswith("bias") else shape
  fan_in = int(np.prod(shape[: rule.inputs]))
  return int(np.prod(shape)) // fan_in, fan_in


def to_ours(
  array: np.ndarray, rule: Rule, shape: tuple[int, ...]
) -> np.ndarray:
  """Returns their tensor as our parameter of a shape; contiguous."""
  if rule.rotary_heads:
    array = _pairs_to_halves(array, rule.rotary_heads)
  if rule.shift:
    array = array + np.asarray(rule.shift, array.dtype)
  array = buffers.transposed(array) if rule.inputs else array
  return array.reshape(shape)


def to_theirs(array: np.ndarray, rule: Rule) -> np.ndarray:
  """Returns our parameter as their tensor; the inverse of `to_ours`."""
  shape = their_shape(rule, array.shape)
  array = array.reshape(shape[::-1]).T if rule.inputs else array.reshape(shape)
  if rule.shift:
    array = array - np.asarray(rule.shift, array.dtype)
  if rule.rotary_heads:
    array = _halves_to_pairs(array, rule.rotary_heads)
  return array


def check(
  rules: list[Rule],
  wanted: Mapping[str, tuple[int, ...]],
  found: Mapping[str, tuple[int, ...]],
  *,
  where: str,
  ignored: Callable[[str], bool] = lambda name: False,
) -> None:
  """Checks that tensors and parameters match one to one.

  Args:
    rules: rule of every parameter.
    wanted: shapes of our parameters.
    found: shapes of their tensors.
    where: file, for error messages.
    ignored: returns whether a tensor is redundant (copies, buffers).

  Raises:
    ValueError: a missing or unexpected tensor, or one of another shape.
  """
  known = {rule.theirs: rule for rule in rules}
  if {rule.ours for rule in rules} != set(wanted):
    odd = sorted({rule.ours for rule in rules} ^ set(wanted))
    raise AssertionError(f"the table and the model disagree about {odd}")
  missing = [name for name in known if name not in found]
  if missing:
    raise ValueError(
      f"{where}: tensor {missing[0]} is missing ({len(missing)} in all); the "
      "file is truncated, or its configuration is that of another model"
    )
  for name in found:
    if name not in known and not ignored(name):
      raise ValueError(
        f"{where}: tensor {name} with shape {found[name]} is unexpected; this "
        "model has no such parameter"
      )
  for name, rule in known.items():
    expected = their_shape(rule, wanted[rule.ours])
    if tuple(found[name]) != expected:
      raise ValueError(
        f"{where}: tensor {name} has shape {tuple(found[name])}; the "
        f"configuration expects {expected}"
      )


def check_finite(name: str, array: np.ndarray) -> None:
  """Raises ValueError if a tensor has a NaN or an infinite value.

  Reads a piece that fits into a cache at a time.
  """
  flat = array.reshape(-1)
  half = flat.dtype.itemsize == 2 and flat.dtype != np.float16
  for begin in range(0, flat.size, _PIECE):
    piece = flat[begin : begin + _PIECE]
    if half:  # bfloat16, for which NumPy's isfinite is slow
      bad = (piece.view(np.uint16) & 0x7F80) == 0x7F80
    else:
      bad = ~np.isfinite(piece)
    if bad.any():
      place = np.unravel_index(begin + int(bad.argmax()), array.shape)
      raise ValueError(
        f"tensor {name} has the value {array[place]} at "
        f"{[int(i) for i in place]}; weights must be finite: get the file again"
      )


def fill(
  rules: list[Rule],
  wanted: Mapping[str, tuple[int, ...]],
  source: protocols.TensorSource,
) -> Iterator[tuple[str, np.ndarray]]:
  """Yields our parameters by name, the largest first, from a checked source.

  Threads read ahead up to _READ_AHEAD bytes. The largest parameter and its
  copies are freed before the others fill memory.
  """

  def read(rule: Rule) -> np.ndarray:
    # A transpose copies, so the tensor that it reads may be borrowed.
    array = source.read(rule.theirs, borrow=bool(rule.inputs))
    check_finite(rule.theirs, array)
    return to_ours(array, rule, wanted[rule.ours])

  def size(rule: Rule) -> int:
    return 4 * math.prod(wanted[rule.ours])

  waiting = sorted(rules, key=size)
  ahead: collections.deque[tuple[Rule, futures.Future]] = collections.deque()
  with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    while waiting or ahead:
      held = sum(size(rule) for rule, _ in ahead)
      while waiting and (not ahead or held + size(waiting[-1]) < _READ_AHEAD):
        held += size(waiting[-1])
        rule = waiting.pop()
        ahead.append((rule, pool.submit(read, rule)))
      rule, array = ahead.popleft()
      yield rule.ours, array.result()


def flatten(tree: PyTree, prefix: str = "") -> dict[str, PyTree]:
  """Returns nested dicts as {"a/b/c": leaf}."""
  flat = {}
  for name, value in tree.items():
    path = f"{prefix}{name}"
    if isinstance(value, Mapping):
      flat |= flatten(value, f"{path}/")
    else:
      flat[path] = value
  return flat


def unflatten(flat: Mapping[str, PyTree]) -> dict[str, PyTree]:
  """Returns {"a/b/c": leaf} as nested dicts."""
  tree: dict[str, PyTree] = {}
  for path, value in flat.items():
    *parents, name = path.split("/")
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[name] = value
  return tree
