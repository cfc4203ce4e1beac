# SPDX-License-Identifier: Apache-2.0
"""Costs of compiled programs against counts by hand."""

from __future__ import annotations

import dataclasses
import pathlib
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.planner import chips
from rlaif_jax.planner import hlo_counts
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.planner import program_costs
from tests import testing
from tests import tiny_plan

CHIP = chips.Chip(
  name="slow", memory=1e9, flops=1e6, memory_bandwidth=1e6, link_bandwidth=1e5
)


def test_a_tpu_compiler_stops_before_code_generation():
  """With the result of a compilation to the end."""
  testing.need_tpu_compiler()
  mesh = mesh_lib.make_mesh("fsdp:-1", chips.devices_of("v5e:2x2"))
  split, whole = mesh_lib.batch_sharding(mesh), mesh_lib.replicated(mesh)
  a = jax.ShapeDtypeStruct((512, 256), jnp.float32, sharding=split)
  step = jax.jit(lambda a: jnp.sort(a @ a.T), out_shardings=whole)
  lowered = step.lower(a)
  begin = time.monotonic()
  found = program_costs.compile_program(lowered, for_tpu=True)
  took = time.monotonic() - begin
  end = lowered.compile()
  assert took < 0.5 * (time.monotonic() - begin - took)
  expected = program_costs.compile_program(
    types.SimpleNamespace(compile=lambda: end), for_tpu=False
  )
  assert found.arguments == expected.arguments == 512 * 256
  assert found.temporary == pytest.approx(expected.temporary, abs=1e5)
  code = end.memory_analysis().generated_code_size_in_bytes
  assert found.memory == pytest.approx(expected.memory - code, abs=1e5)
  costs = [program_costs.cost(one, CHIP) for one in (found, expected)]
  assert costs[0].collectives == costs[1].collectives != ()
  assert costs[0].flops == costs[1].flops == 2 * 512 * 512 * 256 / 4
  assert costs[0].bytes_accessed == costs[1].bytes_accessed


class Compiler:
  """Writes what a TPU's compiler writes, and then stops or does not."""

  def __init__(self, ends):
    self.ends, self.options = ends, []

  def compile(self, compiler_options):
    self.options.append(compiler_options)
    if error := self.ends(compiler_options):
      raise jax.errors.JaxRuntimeError(error)
    folder = pathlib.Path(compiler_options["xla_dump_to"])
    (folder / "m.after_optimizations.txt").write_text("HLO")
    (folder / "m.after_optimizations-buffer-assignment.txt").write_text(
      """BufferAssignment:
allocation 0: size 100, page 0, parameter 0, shape |f32[25]| at ShapeIndex {}:
 value: <134 param.4 @0> (size=100,offset=0): f32[25]{0:T(256)}
allocation 1: size 20, page 0, maybe-live-out:
allocation 2: size 8, page 0, constant:
allocation 3: size 1000, color 1, page 0, preallocated-temp:
allocation 4: size 300, page 0, preallocated-temp:
"""
    )


def test_buffers_of_a_tpu_compiler():
  compiler = Compiler(lambda options: "")
  found = program_costs.compile_program(compiler, for_tpu=True)
  assert (found.text, found.memory) == ("HLO", 100 + 20 + 8 + 300)
  assert (found.arguments, found.temporary) == (100, 300)
  assert len(compiler.options) == 1


def test_a_compiler_without_the_option_compiles_to_the_end():
  def refuses(options):
    names = [name for name in options if not name.startswith("xla_dump_")]
    return names and f"INVALID_ARGUMENT: No such compile option: '{names[0]}'"

  compiler = Compiler(refuses)
  assert program_costs.compile_program(compiler, for_tpu=True).memory == 428
  assert len(compiler.options) == 2


def test_compiler_errors_are_raised():
  compiler = Compiler(lambda options: "RESOURCE_EXHAUSTED: 20G of 15G")
  with pytest.raises(jax.errors.JaxRuntimeError, match="20G of 15G"):
    program_costs.compile_program(compiler, for_tpu=True)


def test_a_sharded_product():
  mesh = mesh_lib.make_mesh("model:8", jax.devices()[:8])
  spec = jax.sharding.PartitionSpec
  across = jax.sharding.NamedSharding(mesh, spec(None, "model"))
  down = jax.sharding.NamedSharding(mesh, spec("model", None))
  everywhere = jax.sharding.NamedSharding(mesh, spec())
  a = jax.ShapeDtypeStruct((16, 64), jnp.float32, sharding=across)
  b = jax.ShapeDtypeStruct((64, 32), jnp.float32, sharding=down)
  step = jax.jit(lambda a, b: a @ b, out_shardings=everywhere)
  cost = program_costs.cost(
    program_costs.compile_program(step.lower(a, b), for_tpu=False), CHIP
  )
  # An eighth of the products on each device, and one sum of the results.
  assert cost.flops == pytest.approx(2 * 16 * 64 * 32 / 8, rel=0.1)
  (one,) = cost.collectives
  assert one.kind == "all-reduce"
  assert one.sent_bytes == pytest.approx(2 * 7 / 8 * 4 * 16 * 32)
  assert cost.arguments == 4 * (16 * 64 + 64 * 32) / 8
  assert cost.memory >= cost.arguments + 4 * 16 * 32
  assert cost.compute == cost.flops / 1e6
  assert cost.links == one.sent_bytes / 1e5
  assert cost.seconds == max(cost.compute, cost.memory_time, cost.links)
  times = (cost.compute, cost.memory_time, cost.links)
  assert cost.bound == ("compute", "memory", "links")[int(np.argmax(times))]


def test_pieces_add_up_and_keep_the_memory_of_the_whole():
  whole = tiny_plan.cost_of_ones(memory=9.0)
  one = hlo_counts.Collective(kind="all-gather", count=2, sent_bytes=5.0)
  two = hlo_counts.Collective(kind="all-gather", count=3, sent_bytes=7.0)
  shallow = dataclasses.replace(whole, flops=3.0, collectives=(one,))
  deeper = dataclasses.replace(whole, memory=2.0, flops=4.0, collectives=(two,))
  found = program_costs.add([(-2, shallow), (3, deeper)])
  assert (found.memory, found.flops, found.compute) == (-12.0, 6.0, 1.0)
  found = program_costs.with_memory_of(found, whole)
  assert (found.memory, found.flops, found.compute) == (9.0, 6.0, 1.0)
  assert found.collectives == (
    hlo_counts.Collective(kind="all-gather", count=5, sent_bytes=11.0),
  )


def test_a_sequence_keeps_only_results():
  piece = tiny_plan.cost_of_ones(
    memory=10.0,  # 3 of arguments, 5 of results, 2 that are temporary
    arguments=3.0,
    temporary=2.0,
    bytes_accessed=8.0,
    memory_time=2.0,
  )
  larger = dataclasses.replace(piece, memory=15.0, temporary=7.0)
  found = program_costs.in_sequence([(4, piece), (1, larger)])
  assert (found.arguments, found.temporary) == (15.0, 7.0)
  assert found.memory == 5 * (3.0 + 5.0) + 7.0
  assert (found.bytes_accessed, found.seconds) == (40.0, 10.0)


def test_bytes_per_device():
  mesh = mesh_lib.make_mesh("data:8", jax.devices()[:8])
  split = mesh_lib.batch_sharding(mesh)
  everywhere = mesh_lib.replicated(mesh)
  tree = {
    "split": jax.ShapeDtypeStruct((16, 4), jnp.float32, sharding=split),
    "whole": jax.ShapeDtypeStruct((3,), jnp.bfloat16, sharding=everywhere),
  }
  assert program_costs.bytes_per_device(tree) == 4 * 2 * 4 + 2 * 3
