# SPDX-License-Identifier: Apache-2.0
"""How often a loop of a compiled program turns, read from its text.

JAX's `scan` and `fori_loop` become a `while` that counts; the CPU's and the
GPU's compiler write down how far, a TPU's does not.
"""

from __future__ import annotations

import re
from typing import Any, Mapping

from rlaif_jax.planner import hlo_text


def known_turns(
  computations: Mapping[str, hlo_text.Computation],
  computation: hlo_text.Computation,
  loop: hlo_text.Instruction,
) -> int | None:
  """Turns of a loop that counts up to a number.

  Args:
    computations: of the program, by name.
    computation: in which the loop stands.
    loop: the `while`.

  Returns:
    None where its data say when it ends.
  """
  if said := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
    return int(said[1])
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


def _origin(computation, name: str) -> Any:
  """The instruction whose value `name` has, under other names and copies."""
  found = computation.instructions[name]
  while found.op in ("bitcast", "copy", "convert"):
    found = computation.instructions[found.operands[0]]
  return found


def _plain(computations, computation, name: str) -> Any:
  """(operation, what it reads), also of one that is alone in a fusion."""
  found = _origin(computation, name)
  if found.op != "fusion":
    return found, found.operands
  called = computations[found.attribute("calls")]
  inner = _origin(called, called.root.name)
  read = [_origin(called, operand) for operand in inner.operands]
  if any(source.op != "parameter" for source in read):
    return None
  return inner, tuple(found.operands[int(s.argument)] for s in read)


def _element(computation, name: str) -> int | None:
  """Which element of the computation's one parameter a value is."""
  found = _origin(computation, name)
  if found.op != "get-tuple-element":
    return None
  is_mine = computation.instructions[found.operands[0]].op == "parameter"
  return int(found.attribute("index")) if is_mine else None


def _constant(computation, name: str) -> int | None:
  """The whole number that a value is, if the text says so."""
  found = _origin(computation, name)
  is_number = found.op == "constant" and re.fullmatch(r"-?\d+", found.argument)
  return int(found.argument) if is_number else None
