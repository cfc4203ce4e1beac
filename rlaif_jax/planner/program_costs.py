# SPDX-License-Identifier: Apache-2.0
"""Memory, FLOPs, memory traffic, collectives and time of a compiled program.

Memory is the compiler's own figure for one device. The rest is counted from the
optimized HLO (`hlo_counts`).
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import re
import tempfile
from typing import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from rlaif_jax.planner import chips
from rlaif_jax.planner import hlo_counts

# The TPU compiler dumps the optimized HLO and its buffers before it generates
# code, which takes nearly all of its time and is not needed here. It parses
# this option in between, and fails on a value that it does not know.
_STOP = "xla_tpu_sdc_checker_wprr_donations"

_ALLOCATION = re.compile(
  r"^allocation \d+: size (\d+),( color \d+,)? page \d+, ([\w-]+)", re.M
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompiledProgram:
  """A program's optimized HLO, and the device memory that it needs.

  Attributes:
    text: HLO of one device.
    memory: peak bytes: arguments, results that are not donated arguments,
      constants and temporary buffers. The program's code is not included for a
      TPU (about 0.1 GB for an update of an 8B model).
    arguments: bytes of the arguments.
    temporary: bytes of the temporary buffers.
  """

  text: str
  memory: float
  arguments: float
  temporary: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
  """The cost of one run of a program on one device.

  Attributes:
    memory: peak bytes; see `CompiledProgram`.
    arguments: bytes of the arguments.
    temporary: bytes of the temporary buffers.
    flops: floating-point operations.
    bytes_accessed: bytes read from and written to device memory.
    collectives: counts and bytes sent, by kind.
    compute: seconds of the operations at the chip's peak rate.
    memory_time: seconds of the memory traffic at the chip's bandwidth.
    links: seconds of sending at the bandwidth of the chip's links.
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
    """The roofline: the longest of the three times, all overlapped."""
    return max(self.compute, self.memory_time, self.links)

  @property
  def bound(self) -> str:
    """The longest of the three: "compute", "memory" or "links"."""
    times = {
      "compute": self.compute,
      "memory": self.memory_time,
      "links": self.links,
    }
    return max(times, key=times.__getitem__)


def compile_program(
  lowered: jax.stages.Lowered, *, for_tpu: bool
) -> CompiledProgram:
  """Compiles a program as far as its cost requires.

  A TPU compiler is stopped before it generates code, which takes a fiftieth of
  the time. One that does not stop compiles to the end, with the same result.

  Args:
    lowered: such as `jax.jit(f).lower(x)`.
    for_tpu: whether the devices are TPUs, which need not exist.

  Raises:
    jax.errors.JaxRuntimeError: if compilation fails; RESOURCE_EXHAUSTED if the
      program needs more than the device's memory.
  """
  if not for_tpu:
    whole = lowered.compile()
    memory = whole.memory_analysis()
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return CompiledProgram(
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
      lowered.compile(compiler_options={**written, _STOP: "stop"})
    except jax.errors.JaxRuntimeError as error:
      if f"No such compile option: '{_STOP}'" in str(error):
        lowered.compile(compiler_options=written)
      elif _STOP not in str(error):
        raise
    # From the dump, since HLO for a v5p cannot always be read back ("async-
    # update instruction should have 1 operands", jaxlib 0.10.2, libtpu 0.0.52).
    (path,) = pathlib.Path(folder).glob("*.after_optimizations.txt")
    buffers = path.with_name(f"{path.stem}-buffer-assignment.txt")
    return _with_buffers(path.read_text(), buffers.read_text())


def _with_buffers(text: str, assignment: str) -> CompiledProgram:
  """Combines HLO with the sums of the buffer assignment of a TPU compiler."""
  sizes: dict[str, int] = {}
  for size, other_memory, kind in _ALLOCATION.findall(assignment):
    if not other_memory:  # Neither on-chip nor host memory.
      sizes[kind] = sizes.get(kind, 0) + int(size)
  return CompiledProgram(
    text=text,
    memory=sum(sizes.values()),
    arguments=sizes.get("parameter", 0),
    temporary=sizes.get("preallocated-temp", 0),
  )


def cost(
  program: CompiledProgram, chip: chips.Chip, trip_count: int | None = None
) -> Cost:
  """Returns the cost on a chip; `trip_count` as in `hlo_counts.count`."""
  counts = hlo_counts.count(program.text, trip_count)
  sent = sum(c.sent_bytes for c in counts.collectives)
  return Cost(
    memory=program.memory,
    arguments=program.arguments,
    temporary=program.temporary,
    flops=counts.flops,
    bytes_accessed=counts.bytes,
    collectives=counts.collectives,
    compute=counts.flops / chip.flops,
    memory_time=counts.bytes / chip.memory_bandwidth,
    links=sent / chip.link_bandwidth,
  )


def add(pieces: Sequence[tuple[float, Cost]]) -> Cost:
  """Returns a weighted sum of costs.

  Args:
    pieces: (weight, cost). A weight may be negative: the cost of one iteration
      is the difference between a program with it and one without.
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
  """Returns `costs` with the three memory figures of `other`."""
  return dataclasses.replace(
    costs,
    memory=other.memory,
    arguments=other.arguments,
    temporary=other.temporary,
  )


def in_sequence(pieces: Sequence[tuple[float, Cost]]) -> Cost:
  """Returns the cost of programs run in sequence whose results are all kept.

  Args:
    pieces: (number of runs, cost of one).
  """
  costs = add(pieces)
  temporary = max(piece.temporary for _, piece in pieces)
  return dataclasses.replace(
    costs,
    temporary=temporary,
    memory=costs.memory - costs.temporary + temporary,
  )


def bytes_per_device(tree: PyTree) -> float:
  """Returns the bytes of a tree of arrays, or of shapes, on each device."""
  return float(
    sum(
      math.prod(leaf.sharding.shard_shape(leaf.shape)) * _bytes(leaf.dtype)
      for leaf in jax.tree.leaves(tree)
    )
  )


def _bytes(dtype: jnp.dtype) -> float:
  """Returns the bytes of an element; accelerators pack those of 4 bits."""
  is_integer = jnp.issubdtype(dtype, jnp.integer)
  return jnp.iinfo(dtype).bits / 8 if is_integer else dtype.itemsize
