# SPDX-License-Identifier: Apache-2.0
"""What a compiled program costs: memory, FLOPs, bytes, collectives, time.

The compiler's own figures, per device. It counts the body of a loop once, so a
program with loops is measured by pieces without any (`added`).
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import re
import tempfile
from typing import Any, Mapping, Sequence

import jax

from rlaif_jax.engine import chips

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2}
_BYTES |= {"f8e4m3fn": 1, "f8e5m2": 1, "f32": 4, "s32": 4, "u32": 4}
_BYTES |= {"f64": 8, "s64": 8, "u64": 8}

# Bytes that a device sends around a ring of n, per byte of the result.
_SENT = {
  "all-gather": lambda n: (n - 1) / n,
  "all-reduce": lambda n: 2 * (n - 1) / n,
  "reduce-scatter": lambda n: float(n - 1),
  "all-to-all": lambda n: (n - 1) / n,
  "collective-permute": lambda n: 1.0,
}

# How the compiler's options begin that make it write files.
_DUMP = "xla_dump_"

_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_CALL = re.compile(
  rf"= (?P<result>.*?) (?P<kind>{'|'.join(_SENT)})(?P<start>-start)?\("
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collective:
  """One kind of collective: how many, and the bytes that a device sends."""

  kind: str
  count: int
  sent_bytes: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
  """Of one run of a program on one device.

  `memory` is what must be there at once: arguments, results that are not
  donated arguments, and the compiler's temporary buffers. `seconds` is the
  roofline: the longest of `compute`, `memory_time` and `links`, as if each
  overlapped the others; `bound` says which. It is too long by what
  `bytes_accessed` has too much: the compiler adds up operands and results of
  all operations, also those that never leave the chip (the TPU's fetches
  weights ahead of a product, and counts them there and in the product).
  `least_seconds` is the roofline if each argument were read once, and nothing
  else touched memory.
  """

  memory: float
  arguments: float
  temporary: float
  flops: float
  bytes_accessed: float
  collectives: tuple[Collective, ...]
  compute: float
  memory_time: float
  links: float

  @property
  def seconds(self) -> float:
    return max(self.compute, self.memory_time, self.links)

  @property
  def least_seconds(self) -> float:
    read = min(1.0, self.arguments / max(1.0, self.bytes_accessed))
    return max(self.compute, read * self.memory_time, self.links)

  @property
  def bound(self) -> str:
    times = {
      "compute": self.compute,
      "memory": self.memory_time,
      "links": self.links,
    }
    return max(times, key=times.__getitem__)


def compiled_with_text(
  lowered: Any, options: Mapping[str, Any] | None, *, for_tpu: bool
) -> tuple[Any, str]:
  """Compiles a program; also the HLO text of what came of it.

  The TPU compiler is asked to write that to a file: what it makes for v5p
  cannot always be read back ("async-update instruction should have 1 operands",
  jaxlib 0.10.2 with libtpu 0.0.52).
  """
  if not for_tpu:
    compiled = lowered.compile(compiler_options=options)
    return compiled, compiled.as_text()
  with tempfile.TemporaryDirectory() as folder:
    dump = {f"{_DUMP}to": folder, f"{_DUMP}hlo_as_text": True}
    compiled = lowered.compile(compiler_options={**(options or {}), **dump})
    (path,) = pathlib.Path(folder).glob("*.after_optimizations.txt")
    return compiled, path.read_text()


def changes_nothing(options: Mapping[str, Any] | None) -> bool:
  """Whether the compiler makes the same of a program with these options."""
  return all(name.startswith(_DUMP) for name in options or ())


def cost(compiled: Any, chip: chips.Chip, text: str = "") -> Cost:
  """Reads a compiled program's costs; `text` is its HLO, if that is at hand."""
  memory = compiled.memory_analysis()
  counted = compiled.cost_analysis()
  found = collectives(text or compiled.as_text())
  sent = sum(c.sent_bytes for c in found)
  flops, touched = counted.get("flops", 0.0), counted.get("bytes accessed", 0.0)
  results = memory.output_size_in_bytes - memory.alias_size_in_bytes
  return Cost(
    memory=memory.argument_size_in_bytes
    + results
    + memory.temp_size_in_bytes
    + memory.generated_code_size_in_bytes,
    arguments=memory.argument_size_in_bytes,
    temporary=memory.temp_size_in_bytes,
    flops=flops,
    bytes_accessed=touched,
    collectives=found,
    compute=flops / chip.flops,
    memory_time=touched / chip.memory_bytes,
    links=sent / chip.link_bytes,
  )


def added(pieces: Sequence[tuple[float, Cost]]) -> Cost:
  """Costs of a program from those of its pieces.

  Args:
    pieces: (how often, costs); "how often" may be negative, as where the part
      of a layer is what two layers cost more than one.
  """

  def total(field):
    return sum(times * getattr(piece, field) for times, piece in pieces)

  kinds = sorted({c.kind for _, piece in pieces for c in piece.collectives})
  calls = [(times, c) for times, piece in pieces for c in piece.collectives]
  numbers = [f.name for f in dataclasses.fields(Cost)]
  numbers.remove("collectives")
  return Cost(
    collectives=tuple(
      Collective(
        kind=kind,
        count=round(sum(t * c.count for t, c in calls if c.kind == kind)),
        sent_bytes=sum(t * c.sent_bytes for t, c in calls if c.kind == kind),
      )
      for kind in kinds
    ),
    **{field: total(field) for field in numbers},
  )


def with_memory_of(costs: Cost, other: Cost) -> Cost:
  """Costs of a program's pieces, with the memory of the program itself."""
  return dataclasses.replace(
    costs,
    memory=other.memory,
    arguments=other.arguments,
    temporary=other.temporary,
  )


def in_turn(pieces: Sequence[tuple[float, Cost]]) -> Cost:
  """Costs of programs that run one after another, and whose results all stay.

  Args:
    pieces: (how often, costs).
  """
  costs = added(pieces)
  temporary = max(piece.temporary for _, piece in pieces)
  return dataclasses.replace(
    costs,
    temporary=temporary,
    memory=costs.memory - costs.temporary + temporary,
  )


def bytes_held(tree: Any) -> float:
  """Bytes of a tree of arrays (or of their shapes) on each device."""
  return float(
    sum(
      math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
      for leaf in jax.tree.leaves(tree)
    )
  )


def collectives(text: str) -> tuple[Collective, ...]:
  """The collectives of a program's HLO text, by kind.

  The TPU compiler writes one that it spreads over several operations into each
  of them, under the same channel; it is counted once. And it writes a
  reduce-scatter as a computation of that name with an all-reduce inside.
  """
  counts = dict.fromkeys(_SENT, 0)
  sent = dict.fromkeys(_SENT, 0.0)
  channels, computation = set(), ""
  for line in text.splitlines():
    if line.endswith("{"):
      computation = line.split("(")[0]
    call = _CALL.search(line)
    if call is None:
      continue
    kind = call["kind"]
    channel = re.search(r"channel_id=\d+", line)
    if channel and (kind, channel[0]) in channels:
      continue
    channels.add((kind, channel and channel[0]))
    size = _group_size(line)
    shapes = [_size(m) for m in _SHAPE.finditer(call["result"])]
    # An asynchronous one names what it reads and what it writes.
    result = max(shapes, default=0) if call["start"] else sum(shapes)
    if call["start"] and kind == "reduce-scatter":
      result = min(shapes)
    if kind == "all-reduce" and "all-reduce-scatter" in computation:
      kind, result = "reduce-scatter", result / size
    counts[kind] += 1
    sent[kind] += result * _SENT[kind](size)
  return tuple(
    Collective(kind=kind, count=count, sent_bytes=sent[kind])
    for kind, count in counts.items()
    if count
  )


def _size(shape: re.Match) -> int:
  """Bytes of a shape such as bf16[8,128]."""
  dims = [int(d) for d in shape[2].split(",") if d]
  return _BYTES.get(shape[1], 0) * math.prod(dims)


def _group_size(line: str) -> int:
  """Devices of a collective's group, in any of the ways HLO writes groups."""
  if found := re.search(r"replica_groups=\[(\d+),(\d+)\]", line):
    return int(found[2])
  if found := re.search(r"replica_groups=\{\{([\d,]*)\}", line):
    return len(found[1].split(","))
  if found := re.search(r"replica_groups=mesh\[(.*?)\]\s*\{(.*?)\}", line):
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", found[1]))
    axes = re.findall(r"'(\w+)'", found[2])
    return math.prod(int(sizes[axis]) for axis in axes)
  return 2  # A permutation: each sends all it has.
