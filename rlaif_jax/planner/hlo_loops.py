# SPDX-License-Identifier: Apache-2.0
"""Trip counts of the loops of a program, from its HLO text.

JAX's `scan` and `fori_loop` become a `while` with a counter. CPU and GPU
compilers annotate it with its trip count; a TPU compiler does not.
"""

from __future__ import annotations

import re
from typing import Mapping

from rlaif_jax.planner import hlo_text


def known_trip_count(
  computations: Mapping[str, hlo_text.Computation],
  computation: hlo_text.Computation,
  loop: hlo_text.Instruction,
) -> int | None:
  """Returns the trip count of a loop that counts up to a constant.

  Args:
    computations: computations of the program, by name.
    computation: the computation that contains the loop.
    loop: the `while` instruction.

  Returns:
    None if the trip count depends on data.
  """
  if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
    return int(known[1])
  test = computations[loop.attribute("condition")]
  compared = _plain(computations, test, test.root.name)
  if compared is None or compared[0].op != "compare":
    return None
  comparison, (counter, limit) = compared
  place = _element(test, counter)
  if place is None or comparison.attribute("direction") != "LT":
    return None
  body = computations[loop.attribute("body")]
  start = computation.instructions[loop.operands[0]]
  if start.op != "tuple" or body.root.op != "tuple":
    return None
  added = _plain(computations, body, body.root.operands[place])
  if added is None or added[0].op != "add":
    return None
  first = _constant(computation, start.operands[place])
  last = _constant(test, limit)
  mine, step = added[1]
  if _element(body, mine) != place:
    mine, step = step, mine
  by = _constant(body, step)
  if None in (first, last, by) or _element(body, mine) != place or by < 1:
    return None
  return max(0, -(-(last - first) // by))


def _origin(
  computation: hlo_text.Computation, name: str
) -> hlo_text.Instruction:
  """Returns the instruction behind copies and bitcasts of its result."""
  found = computation.instructions[name]
  while found.op in ("bitcast", "copy", "convert"):
    found = computation.instructions[found.operands[0]]
  return found


def _plain(
  computations: Mapping[str, hlo_text.Computation],
  computation: hlo_text.Computation,
  name: str,
) -> tuple[hlo_text.Instruction, tuple[str, ...]] | None:
  """Returns an instruction and its operands, also if it is a whole fusion."""
  found = _origin(computation, name)
  if found.op != "fusion":
    return found, found.operands
  called = computations[found.attribute("calls")]
  inner = _origin(called, called.root.name)
  read = [_origin(called, operand) for operand in inner.operands]
  if any(source.op != "parameter" for source in read):
    return None
  return inner, tuple(found.operands[int(s.argument)] for s in read)


def _element(computation: hlo_text.Computation, name: str) -> int | None:
  """Returns the index of a value in the computation's one parameter."""
  found = _origin(computation, name)
  if found.op != "get-tuple-element":
    return None
  is_mine = computation.instructions[found.operands[0]].op == "parameter"
  return int(found.attribute("index")) if is_mine else None


def _constant(computation: hlo_text.Computation, name: str) -> int | None:
  """Returns the integer of a constant, or None for any other value."""
  found = _origin(computation, name)
  is_number = found.op == "constant" and re.fullmatch(r"-?\d+", found.argument)
  return int(found.argument) if is_number else None
