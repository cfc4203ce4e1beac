# SPDX-License-Identifier: Apache-2.0
"""Which meshes a plan tries, and where it stops."""

from __future__ import annotations

import jax
import pytest

from rlaif_jax.planner import chips
from rlaif_jax.planner import programs
from rlaif_jax.planner import search
from tests import tiny_plan

CHIP = chips.CHIPS["TPU v5 lite"]


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch):
  found = tiny_plan.cost_of_ones(memory=1e6, compute=2.0)
  monkeypatch.setattr(programs, "measure", lambda *_, **__: found)


@pytest.mark.parametrize(
  "kind, count", [("none", 1), ("fits", 1), ("fastest", 5)]
)
def test_searches(kind, count):
  lines = []
  plans = search.plan_phase(
    tiny_plan.spec(),
    "sft",
    jax.devices()[:8],
    CHIP,
    search=kind,
    report=lines.append,
  )
  assert [plan["mesh"] for plan in plans] == [*search.MESHES][:count]
  assert plans[0]["fits"] and plans[0]["hours"] == 2.0 / 3600
  assert lines[0] == "data:-1: compiling SFT update"
  assert "fits; 1 updates take" in lines[1]


def test_an_iteration_is_compiled_with_the_program_before_it():
  lines = []
  plan = search.plan_mesh(
    tiny_plan.spec(),
    "policy",
    "data:8",
    jax.devices()[:8],
    CHIP,
    report=lines.append,
  )
  names = [row["program"] for row in plan["programs"]]
  assert names[:2] == ["rollout, prefill", "rollout, decode step"]
  assert len(lines) == len(names) - 1


def test_a_mesh_that_the_devices_do_not_form():
  plan = search.plan_mesh(
    tiny_plan.spec(), "sft", "model:3", jax.devices()[:8], CHIP
  )
  assert not plan["fits"] and "8 devices" in plan["reason"]
  assert plan["programs"] == [] and plan["resident"] == {}
