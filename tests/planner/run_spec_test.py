# SPDX-License-Identifier: Apache-2.0
"""Rows of updates, and settings that are no plan."""

from __future__ import annotations

import jax
import pytest

from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.planner import run_spec
from tests import tiny_plan


def mesh(text):
  return mesh_lib.make_mesh(text, jax.devices()[:8])


@pytest.mark.parametrize(
  "counts", [{}, {"sft_updates": -1, "reward_updates": 2}]
)
def test_a_plan_of_nothing_is_an_error(counts):
  with pytest.raises(ValueError, match="no updates|must be >= 0"):
    run_spec.PlanPhases(**counts)


def test_rows_of_a_phase():
  rl = tiny_plan.rl(algorithm="rloo", samples_per_prompt=2)
  spec = tiny_plan.spec(rl=rl, reward_batch_size=4)
  assert [spec.rows(p) for p in run_spec.PHASES] == [16, 4, 32]
  assert tiny_plan.spec().rows("reward") == 16


def test_rows_that_do_not_divide_are_named():
  spec = tiny_plan.spec(reward_batch_size=4)
  assert spec.indivisible("sft", mesh("data:8")) == ""
  reason = spec.indivisible("reward", mesh("data:2,fsdp:4"))
  assert reason == "4 rows do not divide by 8 data devices"
  assert spec.indivisible("reward", mesh("fsdp:4,model:2")) == ""
  parts = tiny_plan.spec(microbatches=4)
  reason = parts.indivisible("sft", mesh("data:8"))
  assert reason == "16 rows in 4 microbatches do not divide by 8 data devices"
