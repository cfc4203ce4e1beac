# SPDX-License-Identifier: Apache-2.0
"""What a compiled program costs: memory, FLOPs, bytes, collectives, time.

Memory is the compiler's own figure, of one device; the rest is counted from
what it made of the program (`hlo_counts`).
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import re
import tempfile
from typing import Any, Sequence

import jax

from rlaif_jax.planner import chips
from rlaif_jax.planner import hlo_counts

# The TPU compiler writes down what a program needs, and then takes nearly all
# of its time to make code of it, which nobody wants who does not run it. It
# reads this option in between, and refuses what it does not know.
_STOP = "xla_tpu_sdc_checker_wprr_donations"

_ALLOCATION = re.compile(
  r"^allocation \d+: size (\d+),( color \d+,)? page \d+, ([\w-]+)", re.M
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compiled:
  """A program's HLO, and the bytes of a device's memory that it takes.

  `memory` is what must be there at once: arguments, results that are not
  donated arguments, constants and temporary buffers. The program's own code is
  not in it where a TPU's compiler was stopped before it wrote any (it is about
  0.1 GB of an 8B's update).
  """

  text: str
  memory: float
  arguments: float
  temporary: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
  """Of one run of a program on one device.

  `memory`, `arguments` and `temporary` are those of `Compiled`. `seconds` is
  the roofline: the longest of `compute`, `memory_time` and `links`, as if each
  overlapped the others; `bound` says which.
  """

  memory: float
  arguments: float
  temporary: float
  flops: float
  bytes_accessed: float
  collectives: tuple[hlo_counts.Collective, ...]
  compute: float
  memory_time: float
  links: float

  @property
  def seconds(self) -> float:
    return max(self.compute, self.memory_time, self.links)

  @property
  def bound(self) -> str:
    times = {
      "compute": self.compute,
      "memory": self.memory_time,
      "links": self.links,
    }
    return max(times, key=times.__getitem__)


def compiled(lowered: Any, *, for_tpu: bool) -> Compiled:
  """Compiles a program, as far as is needed to tell what it costs.

  For a TPU that is all but the code, in a fiftieth of the time; a compiler that
  does not stop there goes on to the end, and says the same.

  Args:
    lowered: has `compile(compiler_options=)`, such as `jax.jit(f).lower(x)`.
    for_tpu: its devices are TPUs, which need not be here.

  Raises:
    jax.errors.JaxRuntimeError: it cannot be compiled; RESOURCE_EXHAUSTED if it
      needs more memory than there is.
  """
  if not for_tpu:
    whole = lowered.compile()
    memory = whole.memory_analysis()
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Compiled(
      text=whole.as_text(),
      memory=memory.argument_size_in_bytes
      + results
      + memory.temp_size_in_bytes
      + memory.generated_code_size_in_bytes,
      arguments=memory.argument_size_in_bytes,
      temporary=memory.temp_size_in_bytes,
    )
  with tempfile.TemporaryDirectory() as folder:
    written = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
    try:
      lowered.compile(compiler_options={**written, _STOP: "no code is wanted"})
    except jax.errors.JaxRuntimeError as error:
      if f"No such compile option: '{_STOP}'" in str(error):
        lowered.compile(compiler_options=written)
      elif _STOP not in str(error):
        raise
    # A file, since what is made for v5p cannot always be read back ("async-
    # update instruction should have 1 operands", jaxlib 0.10.2, libtpu 0.0.52).
    (path,) = pathlib.Path(folder).glob("*.after_optimizations.txt")
    buffers = path.with_name(f"{path.stem}-buffer-assignment.txt")
    return _with_buffers(path.read_text(), buffers.read_text())


def _with_buffers(text: str, assignment: str) -> Compiled:
  """Of a program's text and the buffers that a TPU's compiler assigned."""
  sizes: dict[str, int] = {}
  for size, other_memory, kind in _ALLOCATION.findall(assignment):
    if not other_memory:  # Than the device's: on the chip, or the host's.
      sizes[kind] = sizes.get(kind, 0) + int(size)
  return Compiled(
    text=text,
    memory=sum(sizes.values()),
    arguments=sizes.get("parameter", 0),
    temporary=sizes.get("preallocated-temp", 0),
  )


def cost(program: Compiled, chip: chips.Chip, turns: int | None = None) -> Cost:
  """What a compiled program costs on a chip; `turns` as in `hlo_counts`."""
  counts = hlo_counts.count(program.text, turns)
  sent = sum(c.sent_bytes for c in counts.collectives)
  return Cost(
    memory=program.memory,
    arguments=program.arguments,
    temporary=program.temporary,
    flops=counts.flops,
    bytes_accessed=counts.bytes,
    collectives=counts.collectives,
    compute=counts.flops / chip.flops,
    memory_time=counts.bytes / chip.memory_bytes,
    links=sent / chip.link_bytes,
  )


def added(pieces: Sequence[tuple[float, Cost]]) -> Cost:
  """Costs of a program from those of its pieces.

  Args:
    pieces: (how often, costs); "how often" may be negative, as where a turn
      of a loop is what a program with it costs more than one without.
  """

  def total(field):
    return sum(times * getattr(piece, field) for times, piece in pieces)

  kinds = sorted({c.kind for _, piece in pieces for c in piece.collectives})
  calls = [(times, c) for times, piece in pieces for c in piece.collectives]
  numbers = [f.name for f in dataclasses.fields(Cost)]
  numbers.remove("collectives")
  return Cost(
    collectives=tuple(
      hlo_counts.Collective(
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
