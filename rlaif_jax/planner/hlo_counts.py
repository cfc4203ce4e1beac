# SPDX-License-Identifier: Apache-2.0
"""FLOPs, memory traffic and collectives of one run of a compiled program.

Counted from HLO text. XLA's own cost analysis counts the body of a loop once,
and bytes that stay on the chip. Here a loop counts trip-count times, and only
arrays in device memory are traffic.
"""

from __future__ import annotations

import dataclasses
import math
import re

from rlaif_jax.planner import hlo_kernels
from rlaif_jax.planner import hlo_loops
from rlaif_jax.planner import hlo_products
from rlaif_jax.planner import hlo_text

# Bytes that a device sends in a ring of n devices, per byte of the result.
_SENT = {
  "all-gather": lambda n: (n - 1) / n,
  "all-reduce": lambda n: 2 * (n - 1) / n,
  "reduce-scatter": lambda n: float(n - 1),
  "all-to-all": lambda n: (n - 1) / n,
  "collective-permute": lambda n: 1.0,
}

# No memory traffic. Asynchronous operations are counted at their start.
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast"}
_FREE |= {"after-all", "partition-id", "replica-id", "opt-barrier", "domain"}
_FREE |= {"async-update", "async-done", "copy-done", "send-done", "recv-done"}
_FREE |= {f"{kind}-done" for kind in _SENT}
_FREE_CALLS = {"AllocateBuffer", "ConcatBitcast", "Sharding"}

# The same elements with another name, shape or dtype.
_SAME = {"bitcast", "bitcast-convert", "copy", "convert", "reshape"}
_SAME |= {"transpose"}

# Results that alias an operand: (index of the result or "", operand).
_ALIAS = re.compile(r"\{(\d*)\}: \((\d+), \{\}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collective:
  """One kind of collective: its count, and the bytes that a device sends."""

  kind: str
  count: int
  sent_bytes: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counts:
  """FLOPs, bytes read from and written to memory, and collectives by kind."""

  flops: float
  bytes: float
  collectives: tuple[Collective, ...]


def count(text: str, trip_count: int | None = None) -> Counts:
  """Counts the work of a program.

  FLOPs are those of `hlo_products` and `hlo_kernels`. An operation reads its
  operands and writes its results, as far as they are in device memory. Slices
  and gathers read only the elements that they take, and an in-place update
  writes only the new ones.
  Of the branches of a conditional, the one with the most traffic counts.

  Args:
    text: HLO of one device.
    trip_count: trip count of loops whose trip count depends on data. Such a
      loop within another runs once.

  Raises:
    ValueError: if there is such a loop and `trip_count` is None.
  """
  module = hlo_text.parse(text)
  counter = _Counter(module, trip_count)
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
  """A running sum; `sent` has (count, bytes) by kind of collective."""

  flops: float = 0.0
  bytes: float = 0.0
  sent: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)

  def add(self, other: _Sum, times: float = 1) -> None:
    self.flops += times * other.flops
    self.bytes += times * other.bytes
    for kind, (number, sent) in other.sent.items():
      mine = self.sent.get(kind, (0, 0.0))
      self.sent[kind] = (mine[0] + times * number, mine[1] + times * sent)


class _Counter:
  """Sums of computations, each counted once and then looked up."""

  def __init__(self, module: hlo_text.Module, trip_count: int | None):
    self._computations = module.computations
    self._trip_count = trip_count
    self._found: dict[str, _Sum] = {}
    self._channels: set[tuple[str, str]] = set()
    self._open_loops = 0

  def of_computation(self, computation, *, moves: bool) -> _Sum:
    """Counts a computation; inside a fusion nothing moves through memory."""
    if computation.name not in self._found:
      found = _Sum()
      for instruction in computation.instructions.values():
        self._add(found, computation, instruction, moves)
      self._found[computation.name] = found
    return self._found[computation.name]

  def _add(self, found: _Sum, computation, instruction, moves: bool) -> None:
    found.flops += hlo_products.flops(computation, instruction)
    found.flops += hlo_kernels.flops(computation, instruction)
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
        found.bytes += hlo_kernels.repeated_bytes(computation, instruction)

  def _called(self, instruction) -> hlo_text.Computation:
    """Returns the computation of a call, a fusion or an async start."""
    name = instruction.attribute("calls") or instruction.attribute("to_apply")
    return self._computations[name]

  def _add_loop(self, found: _Sum, computation, loop) -> None:
    body = self._computations[loop.attribute("body")]
    known = hlo_loops.known_trip_count(self._computations, computation, loop)
    if known is not None:
      found.add(self.of_computation(body, moves=True), known)
      return
    if self._trip_count is None:
      raise ValueError(
        f"the trip count of loop %{loop.name} depends on data; pass "
        "trip_count to hlo_counts.count"
      )
    self._open_loops += 1
    inner = self.of_computation(body, moves=True)
    self._open_loops -= 1
    found.add(inner, 1 if self._open_loops else self._trip_count)

  def _add_collective(self, found: _Sum, computation, instruction) -> None:
    """Adds a collective once per channel.

    The TPU compiler repeats a collective that it spreads over several
    operations in each of them, with the same channel. It writes a
    reduce-scatter as a computation of that name with an all-reduce inside.
    """
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
    """Bytes that an instruction reads from and writes to device memory."""
    if instruction.op in _FREE or _target(instruction) in _FREE_CALLS:
      return 0.0
    sizes = self._written(computation, instruction)
    written = {place: sizes[place] for place in _outputs(instruction)}
    read = dict.fromkeys(instruction.operands)
    if instruction.op == "fusion" and self._sends(instruction):
      # Data received from other devices was counted at the start.
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
    """Whether a fusion contains a part of a collective."""
    called = self._called(fusion)
    return any(one.op in _SENT for one in called.instructions.values())

  def _read(self, computation, name: str, user) -> float:
    """Bytes of the array `name` that the instruction `user` reads."""
    whole = computation.instructions[name].bytes
    is_first = user.operands[0] == name
    if user.op in ("dynamic-slice", "slice", "gather") and is_first:
      return min(whole, user.bytes)
    if user.op in ("dynamic-update-slice", "scatter") and is_first:
      return 0.0
    if user.op != "fusion":
      return whole
    called = self._called(user)
    total = sum(
      self._read_in_fusion(called, called.parameters[place])
      for place, operand in enumerate(user.operands)
      if operand == name
    )
    return min(whole, total)

  def _read_in_fusion(self, computation, name: str) -> float:
    """Bytes of `name` that the other instructions of a fusion read."""
    whole = computation.instructions[name].bytes
    if computation.root.name == name:
      return whole
    total = 0.0
    for user in computation.users[name]:
      if user.op in _SAME:
        part = self._read_in_fusion(computation, user.name) / max(1, user.bytes)
        total += part * whole
      else:
        total += self._read(computation, name, user)
    return min(whole, total)

  def _written(self, computation, instruction) -> list[float]:
    """Bytes that are written for each result."""
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
    """Bytes that are written for one array of a fusion, behind bitcasts."""
    if instruction.op in _SAME and instruction.operands:
      same = computation.instructions[instruction.operands[0]]
      part = self._made(computation, same) / max(1, same.bytes)
      return part * instruction.bytes
    return sum(self._written(computation, instruction))


def _outputs(instruction) -> range:
  """Indices of the new results.

  The results of an asynchronous start include its operands: after the result
  for a copy, before it for the others.
  """
  count, results = len(instruction.operands), len(instruction.results)
  if instruction.op == "copy-start":
    return range(1)
  if instruction.op.endswith("-start") and results >= 2 * count:
    return range(count, 2 * count)
  return range(results)


def _target(instruction) -> str:
  """Returns the target of a custom call, or ""."""
  found = re.search(r'custom_call_target="([^"]*)"', instruction.attributes)
  return found[1] if found else ""


def _branches(instruction) -> list[str]:
  """Returns the computations of a conditional, in either notation."""
  found = re.search(r"branch_computations=\{([^}]*)\}", instruction.attributes)
  if found:
    return re.findall(r"[\w.-]+", found[1])
  names = ("true_computation", "false_computation")
  return [instruction.attribute(name) for name in names]


def _group_size(attributes: str) -> int:
  """Returns the number of devices of a collective's group."""
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
  return 2  # A permutation: each device sends all of its data.
