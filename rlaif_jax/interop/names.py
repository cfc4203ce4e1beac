# SPDX-License-Identifier: Apache-2.0
"""One table of names per family, read in both directions.

A rule says which tensor of a public layout is which of our parameters, and how
its axes lie. `fill` and `export` apply a table; nothing else renames anything.
"""

from __future__ import annotations

import collections
import math
import os
from concurrent import futures
from typing import Any, Callable, Iterator, Mapping, NamedTuple

import numpy as np

from rlaif_jax.core import protocols
from rlaif_jax.interop import buffers

# Bytes that are read before they are asked for.
_AHEAD = 256 << 20


class Rule(NamedTuple):
  """One parameter of ours and one tensor of theirs.

  `inputs` is how many leading axes of our kernel are inputs: their matrix is
  [outputs, inputs] over the flattened axes. 0 is the same array (flattened
  where we split an axis), -1 a plain 2-D transpose. `rotary_heads` > 0: their
  rows hold channel pairs side by side (2 i, 2 i + 1) in that many heads, ours
  half a head apart. `shift` is added to their values (GGUF stores Gemma's
  1 + scale).
  """

  ours: str  # "blocks_0/attention/query/kernel"
  theirs: str  # "model.layers.0.self_attn.q_proj.weight"
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
  """The shape of their tensor for our parameter of this shape."""
  if rule.inputs == -1:
    return shape[::-1]
  if rule.inputs == 0:
    return (int(np.prod(shape)),) if rule.ours.endswith("bias") else shape
  fan_in = int(np.prod(shape[: rule.inputs]))
  return int(np.prod(shape)) // fan_in, fan_in


def to_ours(
  array: np.ndarray, rule: Rule, shape: tuple[int, ...]
) -> np.ndarray:
  """Their tensor as our parameter of this shape; contiguous."""
  if rule.rotary_heads:
    array = _pairs_to_halves(array, rule.rotary_heads)
  if rule.shift:
    array = array + np.asarray(rule.shift, array.dtype)
  array = buffers.transposed(array) if rule.inputs else array
  return array.reshape(shape)


def to_theirs(array: np.ndarray, rule: Rule) -> np.ndarray:
  """Our parameter as their tensor; the inverse of `to_ours`."""
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
  """Every tensor has its place and every parameter its tensor.

  Args:
    rules: the table.
    wanted: our parameter -> shape.
    found: their tensor -> shape.
    where: the file, for messages.
    ignored: names of theirs that carry nothing (copies, buffers).

  Raises:
    ValueError: a missing, unexpected or misshapen tensor, by name.
  """
  known = {rule.theirs: rule for rule in rules}
  if {rule.ours for rule in rules} != set(wanted):
    odd = sorted({rule.ours for rule in rules} ^ set(wanted))
    raise AssertionError(f"the table and the model disagree about {odd}")
  missing = [name for name in known if name not in found]
  if missing:
    raise ValueError(
      f"{where}: tensor {missing[0]} is missing ({len(missing)} in all); the "
      "file is not whole, or its configuration is another model's"
    )
  for name in found:
    if name not in known and not ignored(name):
      raise ValueError(
        f"{where}: tensor {name} with shape {found[name]} is unexpected; this "
        "model has no place for it"
      )
  for name, rule in known.items():
    expected = their_shape(rule, wanted[rule.ours])
    if tuple(found[name]) != expected:
      raise ValueError(
        f"{where}: tensor {name} has shape {tuple(found[name])}; the "
        f"configuration says {expected}"
      )


def fill(
  rules: list[Rule],
  wanted: Mapping[str, tuple[int, ...]],
  source: protocols.TensorSource,
) -> Iterator[tuple[str, np.ndarray]]:
  """Our parameters by name, the largest first, read from a checked source.

  Threads read ahead, as far as some hundred megabytes reach: by the time the
  others fill memory, the largest and its copies are gone.
  """

  def read(rule: Rule) -> np.ndarray:
    # A transpose copies, so what it reads need not last.
    array = source.read(rule.theirs, borrow=bool(rule.inputs))
    return to_ours(array, rule, wanted[rule.ours])

  def size(rule: Rule) -> int:
    return 4 * math.prod(wanted[rule.ours])

  waiting = sorted(rules, key=size)
  ahead: collections.deque[tuple[Rule, Any]] = collections.deque()
  with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    while waiting or ahead:
      held = sum(size(rule) for rule, _ in ahead)
      while waiting and (not ahead or held + size(waiting[-1]) < _AHEAD):
        held += size(waiting[-1])
        rule = waiting.pop()
        ahead.append((rule, pool.submit(read, rule)))
      rule, array = ahead.popleft()
      yield rule.ours, array.result()


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
  """Nested dicts -> {"a/b/c": leaf}."""
  flat = {}
  for name, value in tree.items():
    path = f"{prefix}{name}"
    if isinstance(value, Mapping):
      flat |= flatten(value, f"{path}/")
    else:
      flat[path] = value
  return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
  """{"a/b/c": leaf} -> nested dicts."""
  tree: dict[str, Any] = {}
  for path, value in flat.items():
    *parents, name = path.split("/")
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[name] = value
  return tree
