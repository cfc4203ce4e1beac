# SPDX-License-Identifier: Apache-2.0
"""Measures this machine's rates, and computes rooflines from them.

A phase takes the longer of FLOPs / rate and bytes / bandwidth, a workload the
sum of its phases. The rates are measured in the process that times the work, so
that other load on the machine slows both.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from typing import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

# Sizes of the square matrices that are multiplied, and the number of float32
# values that are read, in rows of ROW; they do not fit into a cache.
MATMUL_SIDES = (1024, 2048)
READ_NUMBERS = 2**26
ROW = 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
  """Measured rates.

  Attributes:
    flops: float32 FLOPs per second of large matrix products.
    bandwidth: bytes per second read from memory.
  """

  flops: float
  bandwidth: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phase:
  """Work that is repeated `times` times: FLOPs, and bytes that are read."""

  name: str
  flops: float
  bytes: float
  times: float = 1.0

  def seconds(self, machine: Machine) -> float:
    """Returns the minimum time of the phase on a machine."""
    return self.times * max(
      self.flops / machine.flops, self.bytes / machine.bandwidth
    )

  def bound(self, machine: Machine) -> str:
    """Returns "compute" or "memory", whichever bounds the phase."""
    computing = self.flops / machine.flops > self.bytes / machine.bandwidth
    return "compute" if computing else "memory"


def seconds_of(call: Callable[[], PyTree], repetitions: int) -> list[float]:
  """Returns the seconds of each call, after one call that compiles."""
  jax.block_until_ready(call())
  seconds = []
  for _ in range(repetitions):
    begin = time.perf_counter()
    jax.block_until_ready(call())
    seconds.append(time.perf_counter() - begin)
  return seconds


def alternate(
  calls: Mapping[str, Callable[[], PyTree]], repetitions: int
) -> dict[str, float]:
  """Returns median seconds of calls that alternate; see `seconds_of`."""
  seconds = {name: [] for name in calls}
  for _ in range(repetitions):
    for name, call in calls.items():
      seconds[name] += seconds_of(call, 1)
  return {name: statistics.median(times) for name, times in seconds.items()}


def measure(
  *,
  sides: Sequence[int] = MATMUL_SIDES,
  numbers: int = READ_NUMBERS,
  repetitions: int = 8,
) -> Machine:
  """Returns the best rates of a few repetitions.

  Args:
    sides: sizes of the square matrices that are multiplied.
    numbers: number of float32 values that are read, a multiple of ROW.
    repetitions: timed calls of each operation.
  """
  rates = []
  for side in sides:
    matrix = jnp.ones((side, side), jnp.float32)
    times = seconds_of(lambda m=matrix: _product(m), repetitions)
    rates.append(2 * side**3 / min(times))
  rows = jnp.ones((numbers // ROW, ROW), jnp.float32)
  # The fastest way to read depends on the compiler.
  read = [
    min(seconds_of(lambda f=f: f(rows), repetitions))
    for f in (_row_sums, _sum, _row_products)
  ]
  return Machine(flops=max(rates), bandwidth=4 * numbers / min(read))


def summary(phases: Sequence[Phase], machine: Machine) -> dict[str, object]:
  """Returns the roofline as entries of a JSON line."""
  return {
    "gflops": round(machine.flops / 1e9, 1),
    "read_gb_s": round(machine.bandwidth / 1e9, 1),
    "roofline_s": sum(phase.seconds(machine) for phase in phases),
    "phases": {
      phase.name: {
        "seconds": round(phase.seconds(machine), 4),
        "bound": phase.bound(machine),
      }
      for phase in phases
    },
  }


@jax.jit
def _product(matrix):
  return matrix @ matrix


@jax.jit
def _row_sums(rows):
  return jnp.sum(rows, axis=1)


@jax.jit
def _sum(rows):
  return jnp.sum(rows)


@jax.jit
def _row_products(rows):
  return rows @ rows[0]
