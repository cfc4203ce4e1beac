# SPDX-License-Identifier: Apache-2.0
"""What one run of a compiled program does: products, memory traffic, sending.

Counted from the program's text. Compilers have a count of their own, but count
the body of a loop once, and bytes that never leave the chip; here a loop
counts as often as it turns, and only what lies in the device's memory is
traffic.
"""

from __future__ import annotations

import dataclasses
import math
import re

from rlaif_jax.planner import hlo_loops
from rlaif_jax.planner import hlo_products
from rlaif_jax.planner import hlo_text

# Bytes that a device sends around a ring of n, per byte of the result.
_SENT = {
  "all-gather": lambda n: (n - 1) / n,
  "all-reduce": lambda n: 2 * (n - 1) / n,
  "reduce-scatter": lambda n: float(n - 1),
  "all-to-all": lambda n: (n - 1) / n,
  "collective-permute": lambda n: 1.0,
}

# Neither read nor write; of what runs beside others, the start is counted.
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast"}
_FREE |= {"after-all", "partition-id", "replica-id", "opt-barrier", "domain"}
_FREE |= {"async-update", "async-done", "copy-done", "send-done", "recv-done"}
_FREE |= {f"{kind}-done" for kind in _SENT}
_FREE_CALLS = {"AllocateBuffer", "ConcatBitcast", "Sharding"}

# The same elements under another name, shape or type.
_SAME = {"bitcast", "bitcast-convert", "copy", "convert", "reshape"}
_SAME |= {"transpose"}

# Results that are operands, unchanged: (result or "", operand).
_ALIAS = re.compile(r"\{(\d*)\}: \((\d+), \{\}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collective:
  """One kind of collective: how many, and the bytes that a device sends."""

  kind: str
  count: int
  sent_bytes: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counts:
  """Of one device: FLOPs, bytes that go to and from its memory, collectives
  by kind."""

  flops: float
  bytes: float
  collectives: tuple[Collective, ...]


def count(text: str, turns: int | None = None) -> Counts:
  """Counts a program.

  FLOPs are those of `hlo_products`. An operation reads its operands and writes
  its results, those that lie in the device's memory: slices and gathers read
  what they take, an update in place writes what is new. Of branches, the one
  with the most traffic counts.

  Args:
    text: HLO, of one device.
    turns: of loops that end when the data say so; one within another turns
      once.

  Raises:
    ValueError: there is such a loop, and no `turns`.
  """
  module = hlo_text.parse(text)
  counter = _Counter(module, turns)
  found = counter.of_computation(module.entry, moves=True)
  return Counts(
    flops=found.flops,
    bytes=found.bytes,
    collectives=tuple(
      Collective(kind=kind, count=round(times), sent_bytes=sent)
      for kind in _SENT
      for times, sent in [found.sent.get(kind, (0, 0.0))]
      if times
    ),
  )


@dataclasses.dataclass
class _Sum:
  """Counts that grow; `sent` has (how often, bytes) by kind."""

  flops: float = 0.0
  bytes: float = 0.0
  sent: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)

  def add(self, other: _Sum, times: float = 1) -> None:
    self.flops += times * other.flops
    self.bytes += times * other.bytes
    for kind, (often, sent) in other.sent.items():
      mine = self.sent.get(kind, (0, 0.0))
      self.sent[kind] = (mine[0] + times * often, mine[1] + times * sent)


class _Counter:
  """Sums of computations, each made once."""

  def __init__(self, module: hlo_text.Module, turns: int | None):
    self._computations = module.computations
    self._turns = turns
    self._found: dict[str, _Sum] = {}
    self._channels: set[tuple[str, str]] = set()
    self._open_loops = 0

  def of_computation(self, computation, *, moves: bool) -> _Sum:
    """`moves`: its instructions go to memory; those of a fusion do not."""
    if computation.name not in self._found:
      found = _Sum()
      for instruction in computation.instructions.values():
        self._add(found, computation, instruction, moves)
      self._found[computation.name] = found
    return self._found[computation.name]

  def _add(self, found: _Sum, computation, instruction, moves: bool) -> None:
    found.flops += hlo_products.flops(computation, instruction)
    self._add_collective(found, computation, instruction)
    op = instruction.op
    if op == "while":
      self._add_loop(found, computation, instruction)
    elif op == "conditional":
      branches = [
        self.of_computation(self._computations[name], moves=moves)
        for name in _branches(instruction)
      ]
      found.add(max(branches, key=lambda branch: branch.bytes))
    elif op in ("call", "async-start"):
      called = self._called(instruction)
      found.add(self.of_computation(called, moves=moves))
    else:
      if op == "fusion":
        called = self._called(instruction)
        found.add(self.of_computation(called, moves=False))
      if moves:
        found.bytes += self._traffic(computation, instruction)

  def _called(self, instruction) -> hlo_text.Computation:
    """What a call, a fusion or a start runs."""
    name = instruction.attribute("calls") or instruction.attribute("to_apply")
    return self._computations[name]

  def _add_loop(self, found: _Sum, computation, loop) -> None:
    body = self._computations[loop.attribute("body")]
    turns = hlo_loops.known_turns(self._computations, computation, loop)
    if turns is not None:
      found.add(self.of_computation(body, moves=True), turns)
      return
    if self._turns is None:
      raise ValueError(
        f"the loop %{loop.name} ends when its data say so; count(text, "
        "turns=) needs a number for it"
      )
    self._open_loops += 1
    inner = self.of_computation(body, moves=True)
    self._open_loops -= 1
    found.add(inner, 1 if self._open_loops else self._turns)

  def _add_collective(self, found: _Sum, computation, instruction) -> None:
    """The TPU compiler writes one that it spreads over several operations into
    each of them, under the same channel; it is counted once. And it writes a
    reduce-scatter as a computation of that name with an all-reduce inside."""
    kind = instruction.op.removesuffix("-start")
    if kind not in _SENT:
      return
    if channel := instruction.attribute("channel_id"):
      if (kind, channel) in self._channels:
        return
      self._channels.add((kind, channel))
    size = _group_size(instruction.attributes)
    places = _outputs(instruction)
    result = sum(instruction.results[place].bytes for place in places)
    if kind == "all-reduce" and "all-reduce-scatter" in computation.name:
      kind, result = "reduce-scatter", result / size
    found.add(_Sum(sent={kind: (1, result * _SENT[kind](size))}))

  def _traffic(self, computation, instruction) -> float:
    """Bytes that an instruction moves to and from the device's memory."""
    if instruction.op in _FREE or _target(instruction) in _FREE_CALLS:
      return 0.0
    sizes = self._written(computation, instruction)
    written = {place: sizes[place] for place in _outputs(instruction)}
    read = dict.fromkeys(instruction.operands)
    if instruction.op == "fusion" and self._sends(instruction):
      # What is on its way from others is handed on; its start counted it.
      for result, operand in _ALIAS.findall(instruction.attributes):
        written.pop(int(result or 0), None)
        read.pop(instruction.operands[int(operand)], None)
    moved = sum(
      size
      for place, size in written.items()
      if instruction.results[place].space == 0
    )
    for operand in read:
      source = computation.instructions[operand].results
      if len(source) == 1 and source[0].space == 0:
        moved += self._read(computation, operand, instruction)
    return moved

  def _sends(self, fusion) -> bool:
    """Whether a part of a collective runs beside what a fusion computes."""
    called = self._called(fusion)
    return any(one.op in _SENT for one in called.instructions.values())

  def _read(self, computation, name: str, user) -> float:
    """Bytes of the array `name` that `user` reads."""
    whole = computation.instructions[name].bytes
    is_first = user.operands[0] == name
    if user.op in ("dynamic-slice", "slice", "gather") and is_first:
      return min(whole, user.bytes)
    if user.op in ("dynamic-update-slice", "scatter") and is_first:
      return 0.0
    if user.op != "fusion":
      return whole
    called = self._called(user)
    asked = sum(
      self._asked(called, called.parameters[place])
      for place, operand in enumerate(user.operands)
      if operand == name
    )
    return min(whole, asked)

  def _asked(self, computation, name: str) -> float:
    """Bytes of `name` that the rest of a fusion reads."""
    whole = computation.instructions[name].bytes
    if computation.root.name == name:
      return whole
    asked = 0.0
    for user in computation.users[name]:
      if user.op in _SAME:
        part = self._asked(computation, user.name) / max(1, user.bytes)
        asked += part * whole
      else:
        asked += self._read(computation, name, user)
    return min(whole, asked)

  def _written(self, computation, instruction) -> list[float]:
    """Bytes that each result takes to write."""
    operands = [computation.instructions[o] for o in instruction.operands]
    if instruction.op == "dynamic-update-slice":
      return [operands[1].bytes]
    if instruction.op == "scatter" and len(instruction.results) == 1:
      return [operands[2].bytes]
    if instruction.op != "fusion":
      return [array.bytes for array in instruction.results]
    called = self._called(instruction)
    root = called.root
    if root.op == "tuple":
      parts = [called.instructions[name] for name in root.operands]
      return [self._made(called, part) for part in parts]
    if len(root.results) > 1:
      return self._written(called, root)
    return [self._made(called, root)]

  def _made(self, computation, instruction) -> float:
    """`_written` of one array in a fusion, under whatever name."""
    if instruction.op in _SAME and instruction.operands:
      same = computation.instructions[instruction.operands[0]]
      part = self._made(computation, same) / max(1, same.bytes)
      return part * instruction.bytes
    return sum(self._written(computation, instruction))


def _outputs(instruction) -> range:
  """Places of the results that are new.

  What only starts also names what it reads: a copy after its result, others
  before.
  """
  count, results = len(instruction.operands), len(instruction.results)
  if instruction.op == "copy-start":
    return range(1)
  if instruction.op.endswith("-start") and results >= 2 * count:
    return range(count, 2 * count)
  return range(results)


def _target(instruction) -> str:
  """Of a custom call."""
  found = re.search(r'custom_call_target="([^"]*)"', instruction.attributes)
  return found[1] if found else ""


def _branches(instruction) -> list[str]:
  """Computations of a conditional, in either way of writing them."""
  found = re.search(r"branch_computations=\{([^}]*)\}", instruction.attributes)
  if found:
    return re.findall(r"[\w.-]+", found[1])
  names = ("true_computation", "false_computation")
  return [instruction.attribute(name) for name in names]


def _group_size(attributes: str) -> int:
  """Devices of a collective's group, in any of the ways HLO writes groups."""
  if found := re.search(r"replica_groups=\[(\d+),(\d+)\]", attributes):
    return int(found[2])
  if found := re.search(r"replica_groups=\{\{([\d,]*)\}", attributes):
    return len(found[1].split(","))
  if found := re.search(
    r"replica_groups=mesh\[(.*?)\]\s*\{(.*?)\}", attributes
  ):
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", found[1]))
    axes = re.findall(r"'(\w+)'", found[2])
    return math.prod(int(sizes[axis]) for axis in axes)
  return 2  # A permutation: each sends all it has.
