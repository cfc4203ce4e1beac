# SPDX-License-Identifier: Apache-2.0
"""Parsing of HLO text."""

from __future__ import annotations

import pytest

from rlaif_jax.planner import hlo_text

TEXT = """HloModule jit_f, is_scheduled=true

%fused (p: f32[4,8], q: s32[]) -> f32[1,8] {
  %p = f32[4,8]{1,0:T(8,128)} parameter(0)
  %q = s32[]{:T(128)S(6)} parameter(1)
  %zero = s32[] constant(0)
  ROOT %cut = f32[1,8]{1,0:T(8)S(1)} dynamic-slice(%p, %q, %zero), sizes={1,8}
}

ENTRY %main.2_spmd (a: f32[4,8], b: s32[]) -> (f32[1,8], /*index=1*/s32[]) {
  %a = f32[4,8]{1,0:T(8,128)} parameter(0), metadata={op_name="a (the first)"}
  %b = s32[]{:T(128)} parameter(1)
  %cut.1 = f32[1,8]{1,0:T(8,128)S(1)} fusion(%a, %b), kind=kLoop, calls=%fused
  ROOT %both = (f32[1,8]{1,0:T(8)(2,1)S(1)}, /*index=1*/s32[]) tuple(%cut.1, %b)
}
"""


def test_computations_and_calls():
  module = hlo_text.parse(TEXT)
  assert sorted(module.computations) == ["fused", "main.2_spmd"]
  assert module.entry is module.computations["main.2_spmd"]
  assert list(module.entry.instructions) == ["a", "b", "cut.1", "both"]
  assert module.entry.root.name == "both"
  assert module.entry.parameters == {0: "a", 1: "b"}
  users = module.entry.users
  assert [user.name for user in users["b"]] == ["cut.1", "both"]


def test_an_instruction():
  entry = hlo_text.parse(TEXT).entry
  fusion = entry.instructions["cut.1"]
  assert (fusion.op, fusion.operands) == ("fusion", ("a", "b"))
  assert fusion.attribute("calls") == "fused"
  assert fusion.attribute("to_apply") == ""
  assert fusion.results == (hlo_text.Array("f32", (1, 8), 1),)
  assert fusion.bytes == 32
  # Layouts and remarks in a tuple have brackets and equals signs of their own.
  assert entry.root.results == (
    hlo_text.Array("f32", (1, 8), 1),
    hlo_text.Array("s32", (), 0),
  )
  assert (entry.root.op, entry.root.bytes) == ("tuple", 36)
  cut = hlo_text.parse(TEXT).computations["fused"].root
  assert cut.numbers("sizes") == (1, 8)
  assert cut.numbers("dimensions") == ()


def test_constants_have_no_operands():
  text = "ENTRY %m () -> s32[] {\n  ROOT %c = s32[] constant(7)\n}\n"
  root = hlo_text.parse(text).entry.root
  assert (root.argument, root.operands) == ("7", ())


def test_text_that_is_no_hlo_is_an_error():
  with pytest.raises(ValueError, match="has no ENTRY"):
    hlo_text.parse("module @jit_f {\n}")


def test_attributes_of_several_lines():
  text = TEXT.replace(
    "kind=kLoop, calls=%fused",
    'frontend_attributes={kernel_metadata={\n"x":"{}"\n}}, calls=%fused',
  )
  entry = hlo_text.parse(text).entry
  assert list(entry.instructions) == ["a", "b", "cut.1", "both"]
  assert entry.instructions["cut.1"].attribute("calls") == "fused"
