# SPDX-License-Identifier: Apache-2.0
"""What this machine can do, measured here and now, and the time that leaves.

A phase needs FLOPs / rate or bytes / bandwidth, whichever is longer; a
workload needs the sum of its phases. Both rates are measured in the process
that measures the work, so that a busy machine slows both.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any, Callable, Sequence

import jax
import jax.numpy as jnp

# Sides of the square matrices whose product gives the rate, and the float32
# numbers that are read for the bandwidth, in rows: more than any cache holds.
MATMUL_SIDES = (1024, 2048)
READ_NUMBERS = 2**26
ROW = 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
  """flops: a second, of large float32 products; bandwidth: bytes a second
  that are read from memory."""

  flops: float
  bandwidth: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phase:
  """Work that is done `times` times: FLOPs, and bytes that must be read."""

  name: str
  flops: float
  bytes: float
  times: float = 1.0

  def seconds(self, machine: Machine) -> float:
    """The least time that the phase takes on the machine."""
    return self.times * max(
      self.flops / machine.flops, self.bytes / machine.bandwidth
    )

  def bound(self, machine: Machine) -> str:
    """What bounds it: "compute" or "memory"."""
    computing = self.flops / machine.flops > self.bytes / machine.bandwidth
    return "compute" if computing else "memory"


def seconds_of(call: Callable[[], Any], repetitions: int) -> list[float]:
  """Seconds of each of several calls, after one that compiles."""
  jax.block_until_ready(call())
  seconds = []
  for _ in range(repetitions):
    begin = time.perf_counter()
    jax.block_until_ready(call())
    seconds.append(time.perf_counter() - begin)
  return seconds


def measure(
  *,
  sides: Sequence[int] = MATMUL_SIDES,
  numbers: int = READ_NUMBERS,
  repetitions: int = 8,
) -> Machine:
  """The best rates of a few tries; the best, so that shares are no flattery.

  Args:
    sides: of the square matrices that are multiplied.
    numbers: float32 numbers that are read, a multiple of ROW.
    repetitions: of each try.
  """
  rates = []
  for side in sides:
    matrix = jnp.ones((side, side), jnp.float32)
    times = seconds_of(lambda m=matrix: _product(m), repetitions)
    rates.append(2 * side**3 / min(times))
  rows = jnp.ones((numbers // ROW, ROW), jnp.float32)
  # Which way of reading is the fastest depends on the compiler.
  read = [
    min(seconds_of(lambda f=f: f(rows), repetitions))
    for f in (_row_sums, _sum, _row_products)
  ]
  return Machine(flops=max(rates), bandwidth=4 * numbers / min(read))


def summary(phases: Sequence[Phase], machine: Machine) -> dict[str, Any]:
  """The roofline as numbers for a JSON line."""
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
