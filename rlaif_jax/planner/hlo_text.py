# SPDX-License-Identifier: Apache-2.0
"""Parses HLO text into computations and instructions.

Reads the text that the CPU, GPU and TPU compilers of JAX write. See
openxla.org/xla/operation_semantics for the operations.
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
  """Type and memory space of an array.

  Attributes:
    dtype: HLO's name of the dtype.
    dims: sizes of the axes.
    space: 0 for device memory (HBM); a TPU has other numbers for on-chip and
      host memory.
  """

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
  """One instruction of a computation.

  Attributes:
    name: name without the percent sign.
    op: operation, such as "fusion".
    results: the resulting arrays; several for a tuple.
    operands: names of the operands.
    argument: text between the parentheses of the operation.
    attributes: text after the parentheses.
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
    """Returns the computation or number of an attribute, or ""."""
    found = re.search(rf"\b{name}=%?([\w.-]+)", self.attributes)
    return found[1] if found else ""

  def numbers(self, name: str) -> tuple[int, ...]:
    """Returns the numbers of an attribute such as `dimensions={0,2}`."""
    found = re.search(rf"\b{name}=\{{([\d,]*)\}}", self.attributes)
    return tuple(map(int, found[1].split(","))) if found and found[1] else ()


@dataclasses.dataclass(frozen=True)
class Computation:
  """A computation: its instructions by name, in order, and its root."""

  name: str
  instructions: Mapping[str, Instruction]
  root: Instruction

  @functools.cached_property
  def parameters(self) -> Mapping[int, str]:
    """Names of the parameters by their number."""
    return {
      int(instruction.argument): name
      for name, instruction in self.instructions.items()
      if instruction.op == "parameter"
    }

  @functools.cached_property
  def users(self) -> Mapping[str, list[Instruction]]:
    """The instructions that read each instruction's result."""
    found: dict[str, list[Instruction]] = {
      name: [] for name in self.instructions
    }
    for instruction in self.instructions.values():
      for operand in dict.fromkeys(instruction.operands):
        found[operand].append(instruction)
    return found


@dataclasses.dataclass(frozen=True)
class Module:
  """The computations of a program by name, and its entry computation."""

  computations: Mapping[str, Computation]
  entry: Computation


def parse(text: str) -> Module:
  """Parses the HLO text of a program.

  Raises:
    ValueError: if the text has no ENTRY computation.
  """
  computations, entry = {}, ""
  name, instructions, root = "", {}, None
  # A kernel's attributes have lines of their own.
  for line in re.sub(r'\n(?="|\}\})', " ", text).splitlines():
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
      f"the text is no HLO: it begins with {text[:80]!r} and has no ENTRY "
      "computation"
    )
  return Module(computations, computations[entry])


def _instruction(name: str, text: str) -> Instruction:
  """Parses the text after the name of an instruction."""
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
  """Returns the position after the parenthesis that opens at `begin`."""
  depth = 0
  for place in range(begin, len(text)):
    depth += {"(": 1, ")": -1}.get(text[place], 0)
    if depth == 0:
      return place + 1
  raise ValueError(f"a parenthesis is not closed in {text[:80]!r}")


def _array(found: re.Match) -> Array:
  """Parses a type such as bf16[8,128]{1,0:T(8,128)(2,1)S(1)}."""
  dims = tuple(int(d) for d in found[2].split(",") if d)
  space = re.search(r"S\((\d+)\)", found[3] or "")
  return Array(found[1], dims, int(space[1]) if space else 0)
