# SPDX-License-Identifier: Apache-2.0
"""A compiled program's text (HLO), taken apart: computations, instructions.

Read as the compilers of JAX's CPU, GPU and TPU backends write it:
openxla.org/xla/operation_semantics has what the operations mean.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from typing import Mapping

BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2}
BYTES |= {"f8e4m3fn": 1, "f8e5m2": 1, "f32": 4, "s32": 4, "u32": 4}
BYTES |= {"f64": 8, "s64": 8, "u64": 8}

_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](\{[^{}]*\})?")
_LINE = re.compile(r"\s+(ROOT )?%?([\w.-]+) = ")
_OPERATION = re.compile(r"\s*([a-z][\w-]*)\(")
_NAME = re.compile(r"%([\w.-]+)")


@dataclasses.dataclass(frozen=True)
class Array:
  """An array of a result. `space` 0 is the device's memory (HBM); a TPU's text
  has other numbers for what lies on the chip or on the host."""

  dtype: str
  dims: tuple[int, ...]
  space: int = 0

  @property
  def size(self) -> int:
    return math.prod(self.dims)

  @property
  def bytes(self) -> int:
    return BYTES.get(self.dtype, 0) * self.size


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of a computation.

  Fields:
    name: of it, without the percent sign.
    op: operation, such as "fusion".
    results: its arrays, those of a tuple in order.
    operands: names of what it reads.
    argument: the text between the operation's parentheses.
    attributes: the text after them.
  """

  name: str
  op: str
  results: tuple[Array, ...]
  operands: tuple[str, ...]
  argument: str
  attributes: str

  @property
  def bytes(self) -> int:
    return sum(array.bytes for array in self.results)

  def attribute(self, name: str) -> str:
    """The computation or number that an attribute names; "" if none."""
    found = re.search(rf"\b{name}=%?([\w.-]+)", self.attributes)
    return found[1] if found else ""

  def numbers(self, name: str) -> tuple[int, ...]:
    """An attribute such as `dimensions={0,2}`; () if there is none."""
    found = re.search(rf"\b{name}=\{{([\d,]*)\}}", self.attributes)
    return tuple(map(int, found[1].split(","))) if found and found[1] else ()


@dataclasses.dataclass(frozen=True)
class Computation:
  """Instructions by name, in the order in which they run, and the last."""

  name: str
  instructions: Mapping[str, Instruction]
  root: Instruction

  @functools.cached_property
  def parameters(self) -> Mapping[int, str]:
    """Names of parameters by their number."""
    return {
      int(instruction.argument): name
      for name, instruction in self.instructions.items()
      if instruction.op == "parameter"
    }

  @functools.cached_property
  def users(self) -> Mapping[str, list[Instruction]]:
    """What reads the result of each name."""
    found: dict[str, list[Instruction]] = {
      name: [] for name in self.instructions
    }
    for instruction in self.instructions.values():
      for operand in dict.fromkeys(instruction.operands):
        found[operand].append(instruction)
    return found


@dataclasses.dataclass(frozen=True)
class Module:
  """Computations by name, and the one that is called."""

  computations: Mapping[str, Computation]
  entry: Computation


def parse(text: str) -> Module:
  """Takes a program's text apart.

  Raises:
    ValueError: there is no computation that is called (ENTRY) in it.
  """
  computations, entry = {}, ""
  name, instructions, root = "", {}, None
  for line in text.splitlines():
    if line.endswith("{") and line[:1] in "%E":
      is_entry = line.startswith("ENTRY ")
      name = line.removeprefix("ENTRY ").split()[0].lstrip("%")
      entry = name if is_entry else entry
      instructions, root = {}, None
    elif line.startswith("}") and root is not None:
      computations[name] = Computation(name, instructions, root)
    elif begin := _LINE.match(line):
      found = _instruction(begin[2], line[begin.end() :])
      instructions[found.name] = found
      root = found if begin[1] else root
  if entry not in computations:
    raise ValueError(
      f"this is no program's text: it begins with {text[:80]!r} and has no "
      "ENTRY computation"
    )
  return Module(computations, computations[entry])


def _instruction(name: str, text: str) -> Instruction:
  """What stands after the name of an instruction."""
  end = _closing(text) if text.startswith("(") else text.index(" ")
  operation = _OPERATION.match(text, end)
  last = _closing(text, operation.end() - 1)
  argument = text[operation.end() : last - 1]
  op = operation[1]
  return Instruction(
    name=name,
    op=op,
    results=tuple(_array(found) for found in _ARRAY.finditer(text, 0, end)),
    operands=() if op == "constant" else tuple(_NAME.findall(argument)),
    argument=argument,
    attributes=text[last:],
  )


def _closing(text: str, begin: int = 0) -> int:
  """Where the parenthesis ends that opens at `begin`."""
  depth = 0
  for place in range(begin, len(text)):
    depth += {"(": 1, ")": -1}.get(text[place], 0)
    if depth == 0:
      return place + 1
  raise ValueError(f"a parenthesis is not closed in {text[:80]!r}")


def _array(found: re.Match) -> Array:
  """Such as bf16[8,128]{1,0:T(8,128)(2,1)S(1)}."""
  dims = tuple(int(d) for d in found[2].split(",") if d)
  space = re.search(r"S\((\d+)\)", found[3] or "")
  return Array(found[1], dims, int(space[1]) if space else 0)
