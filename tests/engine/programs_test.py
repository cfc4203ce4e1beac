# SPDX-License-Identifier: Apache-2.0
"""Costs read off compiled programs against counts by hand."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.engine import chips
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.engine import programs

CHIP = chips.Chip(
  name="slow", memory=1e9, flops=1e6, memory_bytes=1e6, link_bytes=1e5
)


def found(line):
  (one,) = programs.collectives(line)
  return one


@pytest.mark.parametrize(
  "line, kind, sent",
  [
    (
      "%g = bf16[1024,4096]{1,0:T(8,128)(2,1)S(1)} all-gather(%param), "
      "channel_id=1, replica_groups=mesh['axis_0'=4,'axis_1'=4] {'axis_1'}",
      "all-gather",
      2 * 1024 * 4096 * 3 / 4,
    ),
    (
      "  %r = f32[8]{0} all-reduce(%x), replica_groups={{0,1},{2,3}}, to=%add",
      "all-reduce",
      32 * 2 * 1 / 2,
    ),
    (
      "%s = f32[2,4]{1,0} reduce-scatter(%x), replica_groups=[2,8]<=[16]",
      "reduce-scatter",
      32 * 7,
    ),
    (
      "%a = (f32[2]{0}, f32[16]{0}) all-gather-start(%x), "
      "replica_groups=[1,8]<=[8], dimensions={0}",
      "all-gather",
      64 * 7 / 8,
    ),
    (
      "%t = (f32[4]{0}, f32[4]{0}) all-to-all(%x, %y), replica_groups={{0,1}}",
      "all-to-all",
      32 / 2,
    ),
    (
      "%p = s32[3]{0} collective-permute(%x), source_target_pairs={{0,1}}",
      "collective-permute",
      12,
    ),
  ],
)
def test_a_collective_by_hand(line, kind, sent):
  one = found(line)
  assert (one.kind, one.count) == (kind, 1)
  assert one.sent_bytes == pytest.approx(sent)


def test_other_lines_are_none():
  text = "%d = f32[4] all-gather-done(%a)\n%f = f32[4] fusion(%all-gather.1)"
  assert programs.collectives(text) == ()


def test_a_collective_in_several_operations_is_one():
  body = "%a = f32[8] all-gather(%b), channel_id=7, replica_groups=[1,4]<=[4]\n"
  other = body.replace("=7", "=8")
  (one,) = programs.collectives("%x (p: f32[2]) -> f32[8] {\n" + body * 3)
  assert (one.count, one.sent_bytes) == (1, 24.0)
  assert programs.collectives(body + other)[0].count == 2


def test_a_reduce_scatter_as_the_tpu_compiler_writes_it():
  line = "  %r = f32[8] all-reduce(%b), channel_id=7, replica_groups=[1,4]<=[4]"
  begin = "%all-reduce-scatter.3 (input: f32[8]) -> f32[2] {\n"
  (one,) = programs.collectives(begin + line)
  assert (one.kind, one.sent_bytes) == ("reduce-scatter", 3 * 8.0)
  end = "\n}\n\nENTRY %main (a: f32[8]) -> f32[8] {\n"
  found = programs.collectives(begin + end + line)
  assert [c.kind for c in found] == ["all-reduce"]


def test_the_tpu_compilers_own_text_says_the_same():
  """Through a file, since v5p's cannot always be read back."""
  pytest.importorskip("libtpu")
  mesh = mesh_lib.make_mesh("fsdp:-1", chips.devices_of("v5e:2x2"))
  split, whole = mesh_lib.batch_sharding(mesh), mesh_lib.replicated(mesh)
  a = jax.ShapeDtypeStruct((512, 256), jnp.float32, sharding=split)
  lowered = jax.jit(lambda a: 2 * a, out_shardings=whole).lower(a)
  compiled, text = programs.compiled_with_text(lowered, None, for_tpu=True)
  found = programs.collectives(text)
  assert found == programs.collectives(compiled.as_text())
  assert [c.kind for c in found] == ["all-gather"]
  assert found[0].sent_bytes == 512 * 256 * 4 * 3 / 4
  _, same = programs.compiled_with_text(lowered, None, for_tpu=False)
  assert programs.collectives(same) == found


def test_a_product_split_over_devices():
  mesh = mesh_lib.make_mesh("model:8", jax.devices()[:8])
  spec = jax.sharding.PartitionSpec
  across = jax.sharding.NamedSharding(mesh, spec(None, "model"))
  down = jax.sharding.NamedSharding(mesh, spec("model", None))
  everywhere = jax.sharding.NamedSharding(mesh, spec())
  a = jax.ShapeDtypeStruct((16, 64), jnp.float32, sharding=across)
  b = jax.ShapeDtypeStruct((64, 32), jnp.float32, sharding=down)
  step = jax.jit(lambda a, b: a @ b, out_shardings=everywhere)
  cost = programs.cost(step.lower(a, b).compile(), CHIP)
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


def cost_of_ones(**changes):
  """A Cost whose numbers are 1 but for the changes."""
  fields = [f.name for f in dataclasses.fields(programs.Cost)]
  return programs.Cost(
    **{**dict.fromkeys(fields, 1.0), "collectives": (), **changes}
  )


def test_pieces_add_up_and_keep_the_memory_of_the_whole():
  whole = cost_of_ones(memory=9.0)
  one = programs.Collective(kind="all-gather", count=2, sent_bytes=5.0)
  two = programs.Collective(kind="all-gather", count=3, sent_bytes=7.0)
  shallow = dataclasses.replace(whole, flops=3.0, collectives=(one,))
  deeper = dataclasses.replace(whole, memory=2.0, flops=4.0, collectives=(two,))
  found = programs.added([(-2, shallow), (3, deeper)])
  assert (found.memory, found.flops, found.compute) == (-12.0, 6.0, 1.0)
  found = programs.with_memory_of(found, whole)
  assert (found.memory, found.flops, found.compute) == (9.0, 6.0, 1.0)
  assert found.collectives == (
    programs.Collective(kind="all-gather", count=5, sent_bytes=11.0),
  )


def test_the_least_time_reads_each_argument_once():
  cost = cost_of_ones(
    arguments=40.0, bytes_accessed=100.0, memory_time=10.0, links=2.0
  )
  assert (cost.least_seconds, cost.seconds) == (4.0, 10.0)
  split = dataclasses.replace(cost, arguments=5.0)
  assert split.least_seconds == cost.links
  # Of a table a program may read few rows.
  assert dataclasses.replace(cost, arguments=200.0).least_seconds == 10.0


def test_of_programs_in_turn_only_the_results_stay():
  piece = cost_of_ones(
    memory=10.0,  # 3 of arguments, 5 of results, 2 that are temporary
    arguments=3.0,
    temporary=2.0,
    bytes_accessed=8.0,
    memory_time=2.0,
  )
  larger = dataclasses.replace(piece, memory=15.0, temporary=7.0)
  found = programs.in_turn([(4, piece), (1, larger)])
  assert (found.arguments, found.temporary) == (15.0, 7.0)
  assert found.memory == 5 * (3.0 + 5.0) + 7.0
  assert (found.bytes_accessed, found.seconds) == (40.0, 10.0)


def test_bytes_held_are_those_of_a_device():
  mesh = mesh_lib.make_mesh("data:8", jax.devices()[:8])
  split = mesh_lib.batch_sharding(mesh)
  everywhere = mesh_lib.replicated(mesh)
  tree = {
    "split": jax.ShapeDtypeStruct((16, 4), jnp.float32, sharding=split),
    "whole": jax.ShapeDtypeStruct((3,), jnp.bfloat16, sharding=everywhere),
  }
  assert programs.bytes_held(tree) == 4 * 2 * 4 + 2 * 3
