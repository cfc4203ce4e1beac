# SPDX-License-Identifier: Apache-2.0
"""Counts of programs against counts by hand and by the compiler."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import pytest

from rlaif_jax.planner import hlo_counts
from tests.planner import hlo_loops_test as loops

OTHERS = """
%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %z = f32[] add(%x, %y)
}

"""


def entry(*lines, root="%result = f32[] parameter(9)"):
  """A program of these lines, the last of which is the root."""
  *lines, last = [*lines, root]
  body = "".join(f"  {line}\n" for line in lines)
  return (
    f"{OTHERS}ENTRY %main (a: f32[]) -> f32[] {{\n{body}  ROOT {last}\n}}\n"
  )


def count(*lines, **settings):
  return hlo_counts.count(entry(*lines), **settings)


def compiled(function, *shapes):
  arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
  return jax.jit(function).lower(*arrays).compile()


@pytest.mark.parametrize(
  "line, kind, sent",
  [
    (
      "%g = bf16[1024,4096]{1,0:T(8,128)(2,1)S(1)} all-gather(%p), "
      "channel_id=1, replica_groups=mesh['axis_0'=4,'axis_1'=4] {'axis_1'}",
      "all-gather",
      2 * 1024 * 4096 * 3 / 4,
    ),
    (
      "%r = f32[8]{0} all-reduce(%p), replica_groups={{0,1},{2,3}}",
      "all-reduce",
      32 * 2 * 1 / 2,
    ),
    (
      "%s = f32[2,4]{1,0} reduce-scatter(%p), replica_groups=[2,8]<=[16]",
      "reduce-scatter",
      32 * 7,
    ),
    (
      "%a = (f32[2]{0}, f32[16]{0}) all-gather-start(%p), "
      "replica_groups=[1,8]<=[8], dimensions={0}",
      "all-gather",
      64 * 7 / 8,
    ),
    (
      "%a = ((f32[2]{0}, f32[4]{0}), (f32[16]{0}, f32[32]{0})) "
      "all-gather-start(%p, %q), replica_groups=[1,8]<=[8], dimensions={0}",
      "all-gather",
      3 * 64 * 7 / 8,
    ),
    (
      "%r = f32[8]{0} all-reduce-start(%p), replica_groups=[1,8]<=[8]",
      "all-reduce",
      2 * 32 * 7 / 8,
    ),
    (
      "%r = (f32[8]{0}, f32[4]{0}) all-reduce-start(%p, %q), "
      "replica_groups=[1,8]<=[8]",
      "all-reduce",
      2 * 48 * 7 / 8,
    ),
    (
      "%c = (s32[3]{0}, s32[3]{0}, u32[], u32[]) collective-permute-start(%p), "
      "source_target_pairs={{0,1}}",
      "collective-permute",
      12,
    ),
    (
      "%s = (f32[16]{0}, f32[2]{0}) reduce-scatter-start(%p), "
      "replica_groups=[1,8]<=[8], dimensions={0}",
      "reduce-scatter",
      8 * 7,
    ),
    (
      "%t = (f32[4]{0}, f32[4]{0}) all-to-all(%p, %q), replica_groups={{0,1}}",
      "all-to-all",
      32 / 2,
    ),
    (
      "%c = s32[3]{0} collective-permute(%p), source_target_pairs={{0,1}}",
      "collective-permute",
      12,
    ),
  ],
)
def test_a_collective_by_hand(line, kind, sent):
  (one,) = count(
    "%p = f32[4] parameter(0)", "%q = f32[4] parameter(1)", line
  ).collectives
  assert (one.kind, one.count) == (kind, 1)
  assert one.sent_bytes == pytest.approx(sent)


def test_the_end_of_a_collective_is_not_counted():
  found = count(
    "%all-gather.1 = f32[4] parameter(0)",
    "%d = f32[4] all-gather-done(%all-gather.1)",
    "%f = f32[4] negate(%all-gather.1)",
  )
  assert found.collectives == ()


def test_a_collective_in_several_operations_counts_once():
  line = "%{} = f32[8] all-gather(%p), channel_id={}, replica_groups=[1,4]<=[4]"
  begin = "%p = f32[2] parameter(0)"
  same = [line.format(name, 7) for name in "abc"]
  (one,) = count(begin, *same).collectives
  assert (one.count, one.sent_bytes) == (1, 24.0)
  (two,) = count(begin, *same, line.format("d", 8)).collectives
  assert (two.count, two.sent_bytes) == (2, 48.0)


def test_a_reduce_scatter_as_the_tpu_compiler_writes_it():
  inner = """%all-reduce-scatter.3 (i: f32[8]) -> f32[2] {
  %i = f32[8] parameter(0)
  %s = f32[8] all-reduce(%i), channel_id=7, replica_groups=[1,4]<=[4]
  ROOT %o = f32[2] slice(%s), slice={[0:2]}
}

"""
  text = inner + entry(
    "%p = f32[8] parameter(0)",
    "%f = f32[2] fusion(%p), kind=kCustom, calls=%all-reduce-scatter.3",
  )
  (one,) = hlo_counts.count(text).collectives
  assert (one.kind, one.sent_bytes) == ("reduce-scatter", 3 * 8.0)


def test_a_loop_counts_trip_count_times():
  layers, width, rows = 7, 32, 64

  def loss(w, x, unroll):
    def layer(x, w):
      return jnp.tanh(x @ w), None

    return jnp.sum(jax.lax.scan(layer, x, w, unroll=unroll)[0])

  shapes = ((layers, width, width), (rows, width))
  loop, line = (
    compiled(jax.grad(functools.partial(loss, unroll=unroll)), *shapes)
    for unroll in (1, layers)
  )
  assert " while(" in loop.as_text() and " while(" not in line.as_text()
  found = hlo_counts.count(loop.as_text())
  expected = hlo_counts.count(line.as_text())
  # Forward, and two products backward (one of the first layer).
  least = (3 * layers - 1) * 2 * width**2 * rows
  assert least <= expected.flops < 1.1 * least
  assert found.flops == pytest.approx(expected.flops, rel=0.1)
  assert loop.cost_analysis()["flops"] < expected.flops / 2


def test_a_loop_of_unknown_trip_count_needs_a_number():
  text = loops.counter("parameter(1)")
  with pytest.raises(ValueError, match="the trip count of loop %w"):
    hlo_counts.count(text)
  assert hlo_counts.count(text, trip_count=0).flops == 0
  assert hlo_counts.count(text, trip_count=3).flops == 3 * (4 + 1)


def test_a_loop_of_unknown_trip_count_within_another_runs_once():
  def until(x):
    def outer(x):
      inner = jax.lax.while_loop(lambda y: y[0] < 9, lambda y: y + 1, x)
      return inner * 2

    return jax.lax.while_loop(lambda x: x[1] < 99, outer, x)

  text = compiled(until, (64,)).as_text()
  once, many = (hlo_counts.count(text, trip_count=n).flops for n in (1, 5))
  assert once >= 2 * 64
  assert many == pytest.approx(5 * once, rel=0.05)


FUSED = """%cut (p: f32[6,8], i: s32[]) -> f32[1,8] {
  %p = f32[6,8]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %half = bf16[6,8]{1,0} convert(%p)
  %zero = s32[] constant(0)
  ROOT %c = bf16[1,8]{1,0} dynamic-slice(%half, %i, %zero)
}

%half (p: f32[6,8]) -> bf16[6,8] {
  %p = f32[6,8]{1,0} parameter(0)
  ROOT %h = bf16[6,8]{1,0} convert(%p)
}

%put (p: f32[6,8], v: f32[1,8], i: s32[]) -> f32[6,8] {
  %p = f32[6,8]{1,0} parameter(0)
  %v = f32[1,8]{1,0} parameter(1)
  %i = s32[] parameter(2)
  %zero = s32[] constant(0)
  %u = f32[6,8]{1,0} dynamic-update-slice(%p, %v, %i, %zero)
  ROOT %b = f32[48]{0} bitcast(%u)
}

%twice (p: f32[6,8], q: f32[6,8]) -> (f32[6,8], f32[6,8]) {
  %p = f32[6,8]{1,0} parameter(0)
  %q = f32[6,8]{1,0} parameter(1)
  %s = f32[6,8]{1,0} add(%p, %q)
  ROOT %t = (f32[6,8]{1,0}, f32[6,8]{1,0}) tuple(%s, %p)
}

%send (p: f32[2,8], d: f32[6,8], q: f32[8]) -> (f32[8], f32[2,8], f32[6,8]) {
  %p = f32[2,8]{1,0} parameter(0)
  %d = f32[6,8]{1,0} parameter(1)
  %q = f32[8]{0} parameter(2)
  %g = f32[6,8]{1,0} all-gather(%p), channel_id=3, replica_groups=[1,3]<=[3]
  %n = f32[8]{0} negate(%q)
  ROOT %t = (f32[8]{0}, f32[2,8]{1,0}, f32[6,8]{1,0}) tuple(%n, %p, %g)
}

%apart (p: f32[6,8]) -> f32[2,8] {
  %p = f32[6,8]{1,0} parameter(0)
  ROOT %s = f32[2,8]{1,0:S(1)} slice(%p), slice={[0:2], [0:8]}
}

"""

ARRAY = 4 * 6 * 8


@pytest.mark.parametrize(
  "line, moved",
  [
    ("%x = f32[6,8] negate(%a)", 2 * ARRAY),
    ("%x = f32[6,8]{1,0:S(1)} negate(%a)", ARRAY),
    ("%x = f32[6,8] negate(%chip)", ARRAY),
    ("%x = f32[6,8] add(%a, %a)", 2 * ARRAY),
    ("%x = f32[48] bitcast(%a)", 0),
    # Slices, gathers and updates in place, alone and in fusions.
    ("%x = f32[2,8] slice(%a), slice={[0:2], [0:8]}", 2 * 64),
    ("%x = f32[3,8] gather(%a, %ids)", 2 * 3 * 32 + 12),
    ("%x = f32[6,8] dynamic-update-slice(%a, %row, %i, %i)", 2 * 32 + 4),
    ("%x = f32[6,8] scatter(%a, %ids, %row)", 2 * 32 + 12),
    ("%x = bf16[1,8] fusion(%a, %i), kind=kLoop, calls=%cut", 32 + 16 + 4),
    ("%x = f32[48] fusion(%a, %row, %i), kind=kLoop, calls=%put", 2 * 32 + 4),
    ("%x = bf16[6,8] fusion(%a), kind=kLoop, calls=%half", 1.5 * ARRAY),
    (
      "%x = (f32[6,8], f32[6,8]{1,0:S(1)}) fusion(%a, %b), calls=%twice",
      3 * ARRAY,
    ),
    # To the chip while others run, of a part and of all.
    (
      "%x = ((f32[6,8]), f32[2,8]{1,0:S(1)}, s32[]) async-start(%a), "
      "calls=%apart",
      64,
    ),
    ("%x = (f32[6,8]{1,0:S(1)}, f32[6,8], u32[]) copy-start(%a)", ARRAY),
    ("%x = (f32[6,8], f32[6,8]{1,0:S(1)}, u32[]) copy-start(%chip)", ARRAY),
    (
      "%x = (f32[6,8]{1,0:S(1)}, f32[6,8]{1,0:S(1)}) copy-start(%chip)",
      0,
    ),
    (
      "%x = (f32[2,8], f32[6,8]) all-gather-start(%part), "
      "replica_groups=[1,3]<=[3]",
      64 + ARRAY,
    ),
    (
      "%x = f32[6,8] all-reduce-start(%a), replica_groups=[1,3]<=[3]",
      2 * ARRAY,
    ),
    # A part of a collective in a fusion: counted at its start.
    (
      "%x = (f32[8], f32[2,8], f32[6,8]) fusion(%part, %a, %eight), "
      "output_to_operand_aliasing={{1}: (0, {}), {2}: (1, {})}, calls=%send",
      2 * 32,
    ),
    ('%x = f32[6,8] custom-call(), custom_call_target="AllocateBuffer"', 0),
    ('%x = f32[6,8] custom-call(%a), custom_call_target="TopK"', 2 * ARRAY),
  ],
)
def test_traffic_by_hand(line, moved):
  text = FUSED + entry(
    "%a = f32[6,8]{1,0} parameter(0)",
    "%b = f32[6,8]{1,0} parameter(1)",
    "%chip = f32[6,8]{1,0:S(1)} parameter(2)",
    "%row = f32[1,8]{1,0} parameter(3)",
    "%part = f32[2,8]{1,0} parameter(4)",
    "%eight = f32[8]{0} parameter(5)",
    "%i = s32[] parameter(6)",
    "%ids = s32[3] parameter(7)",
    line,
  )
  assert hlo_counts.count(text).bytes == moved


@pytest.mark.parametrize(
  "names",
  [
    "true_computation=%{}, false_computation=%{}",
    "branch_computations={{%{}, %{}}}",
  ],
)
@pytest.mark.parametrize("order", [("much", "little"), ("little", "much")])
def test_the_branch_with_most_traffic_counts(names, order):
  branches = """%much (p: f32[6,8]) -> f32[6,8] {
  %p = f32[6,8] parameter(0)
  ROOT %s = f32[6,8] add(%p, %p)
}

%little (p: f32[6,8]) -> f32[6,8] {
  ROOT %p = f32[6,8] parameter(0)
}

"""
  text = branches + entry(
    "%a = f32[6,8] parameter(0)",
    "%i = pred[] parameter(1)",
    "%c = f32[6,8] conditional(%i, %a, %a), " + names.format(*order),
  )
  found = hlo_counts.count(text)
  assert (found.flops, found.bytes) == (48, 2 * ARRAY)
