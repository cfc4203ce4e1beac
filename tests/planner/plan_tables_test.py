# SPDX-License-Identifier: Apache-2.0
"""A plan in words."""

from __future__ import annotations

import pytest

from rlaif_jax.planner import chips
from rlaif_jax.planner import plan_tables
from tests.jobs import planned_programs_test as tiny

CHIP = chips.CHIPS["TPU v5 lite"]


def plan(**changes):
  settings = {
    "phase": "policy",
    "mesh": "fsdp:-1",
    "programs": [],
    "resident": {
      "moments of the optimizer": 8e9,
      "reference": 4e9,
      "scorer": 4e9,
    },
    "memory": 40e9,
    "chips_needed": 64,
    "fits": False,
    "reason": "the models alone are larger",
    "updates": 3600,
    "hours": 2.0,
  }
  return {**settings, **changes}


@pytest.mark.parametrize(
  "memory, needed", [(16e9, 16), (16.1e9, 32), (8e9, 8), (1e6, 1)]
)
def test_chips_needed(memory, needed):
  assert plan_tables.chips_needed(memory, 16, CHIP) == needed


def test_what_frees_memory_where_the_models_are_too_large():
  said = plan_tables.advice([plan()], tiny.recipe(), CHIP)
  assert said == (
    "none of fsdp:-1 fits; fsdp:-1 comes nearest with 40.0 of 16 GB; try "
    "read_dtype='bfloat16' (4.0 GB less), then Adafactor (moments take 8.0 "
    "GB), then more chips, about 64"
  )


def test_what_frees_memory_where_activations_are_too_large():
  row = {"program": "policy update"}
  done = tiny.recipe(read_dtype="bfloat16", remat="full", microbatches=2)
  said = plan_tables.advice([plan(programs=[row])], done, CHIP)
  assert "try microbatches=4, then Adafactor" in said
  said = plan_tables.advice([plan(programs=[row])], tiny.recipe(), CHIP)
  assert "try remat='full', then microbatches=2, then read_dtype" in said


def test_a_mesh_that_cannot_be_is_no_nearest():
  odd = plan(resident={}, mesh="data:-1", reason="2 rows do not divide")
  said = plan_tables.advice([odd], tiny.recipe(), CHIP)
  assert said == (
    "none of data:-1 is possible (data:-1: 2 rows do not divide); change the "
    "batch size"
  )
  said = plan_tables.advice([odd, plan(fits=True)], tiny.recipe(), CHIP)
  assert said == (
    "data:-1 does not fit (2 rows do not divide); take mesh=fsdp:-1"
  )
  assert plan_tables.advice([plan(fits=True)], tiny.recipe(), CHIP) == ""


def test_the_fastest_of_those_that_fit_is_taken():
  asked = plan(fits=True, hours=2.0)
  faster = plan(fits=True, hours=1.5, mesh="fsdp:-1,model:2")
  misfit = plan(hours=0.1, mesh="data:-1")
  plans = [asked, faster, misfit]
  assert plan_tables.taken(plans) is faster
  said = plan_tables.advice(plans, tiny.recipe(), CHIP)
  assert said == "fsdp:-1 takes 2.00 hours, not 1.50; take mesh=fsdp:-1,model:2"
  same = plan(fits=True, hours=2.0, mesh="fsdp:-1,model:4")
  assert plan_tables.taken([asked, same]) is asked
  assert plan_tables.advice([asked, same], tiny.recipe(), CHIP) == ""
  assert plan_tables.taken([misfit, plan()])["mesh"] == "fsdp:-1"


def test_the_summary_adds_up_phases():
  one = plan(fits=True, hours=2.0, chips_needed=8)
  two = plan(fits=True, hours=3.0, chips_needed=4, mesh="data:-1")
  said = plan_tables.summary({"sft": one, "policy": two}, 16, CHIP)
  assert said == (
    "fits on 16 x TPU v5e (sft fsdp:-1, policy data:-1); about 8 would do; "
    "5.00 hours, 80 chip hours at the roofline"
  )
  said = plan_tables.summary({"sft": one, "policy": plan()}, 16, CHIP)
  assert said == "does not fit on 16 x TPU v5e: policy"


def test_the_table_says_why():
  text = plan_tables.table(plan(), CHIP)
  assert "DOES NOT FIT: the models alone are larger" in text
  assert "reference 4.00 GB" in text
