# SPDX-License-Identifier: Apache-2.0
"""Tables and advice of a plan."""

from __future__ import annotations

import pytest

from rlaif_jax.planner import chips
from rlaif_jax.planner import tables
from tests import tiny_plan

CHIP = chips.CHIPS["TPU v5 lite"]


def plan(**changes):
  settings = {
    "phase": "policy",
    "mesh": "fsdp:-1",
    "programs": [],
    "resident": {
      "optimizer state": 8e9,
      "reference": 4e9,
      "scorer": 4e9,
    },
    "memory": 40e9,
    "chips_needed": 64,
    "fits": False,
    "reason": "the resident arrays alone are larger",
    "updates": 3600,
    "hours": 2.0,
  }
  return {**settings, **changes}


@pytest.mark.parametrize(
  "memory, needed", [(16e9, 16), (16.1e9, 32), (8e9, 8), (1e6, 1)]
)
def test_chips_needed(memory, needed):
  assert tables.chips_needed(memory, 16, CHIP) == needed


def test_advice_if_the_models_are_too_large():
  text = tables.advice([plan()], tiny_plan.spec(), CHIP)
  assert text == (
    "none of fsdp:-1 fits; fsdp:-1 comes nearest with 40.0 of 16 GB; try "
    "Placement.dtype='bfloat16' for reference and scorer (saves up to 4.0 "
    "GB), then Adafactor (optimizer state takes 8.0 GB), then more chips, "
    "about 64"
  )


def test_advice_if_the_activations_are_too_large():
  row = {"program": "policy update"}
  done = tiny_plan.spec(**tiny_plan.BFLOAT16, remat="full", microbatches=2)
  text = tables.advice([plan(programs=[row])], done, CHIP)
  assert "try microbatches=4, then Adafactor" in text
  text = tables.advice([plan(programs=[row])], tiny_plan.spec(), CHIP)
  assert "try remat='full', then microbatches=2, then Placement.dtype" in text


def test_impossible_meshes_are_not_recommended():
  odd = plan(resident={}, mesh="data:-1", reason="2 rows do not divide")
  text = tables.advice([odd], tiny_plan.spec(), CHIP)
  assert text == (
    "none of data:-1 is possible (data:-1: 2 rows do not divide); change the "
    "batch size"
  )
  text = tables.advice([odd, plan(fits=True)], tiny_plan.spec(), CHIP)
  assert text == (
    "data:-1 does not fit (2 rows do not divide); use mesh=fsdp:-1"
  )
  assert tables.advice([plan(fits=True)], tiny_plan.spec(), CHIP) == ""


def test_the_fastest_plan_that_fits_is_the_best():
  asked = plan(fits=True, hours=2.0)
  faster = plan(fits=True, hours=1.5, mesh="fsdp:-1,model:2")
  misfit = plan(hours=0.1, mesh="data:-1")
  plans = [asked, faster, misfit]
  assert tables.best(plans) is faster
  text = tables.advice(plans, tiny_plan.spec(), CHIP)
  assert text == "fsdp:-1 takes 2.00 hours, not 1.50; use mesh=fsdp:-1,model:2"
  same = plan(fits=True, hours=2.0, mesh="fsdp:-1,model:4")
  assert tables.best([asked, same]) is asked
  assert tables.advice([asked, same], tiny_plan.spec(), CHIP) == ""
  assert tables.best([misfit, plan()])["mesh"] == "fsdp:-1"


def test_the_summary_adds_up_phases():
  one = plan(fits=True, hours=2.0, chips_needed=8)
  two = plan(fits=True, hours=3.0, chips_needed=4, mesh="data:-1")
  text = tables.summary({"sft": one, "policy": two}, 16, CHIP)
  assert text == (
    "fits on 16 x TPU v5e (sft fsdp:-1, policy data:-1); about 8 suffice; "
    "5.00 hours, 80 chip hours at the roofline"
  )
  text = tables.summary({"sft": one, "policy": plan()}, 16, CHIP)
  assert text == "does not fit on 16 x TPU v5e: policy"


def test_the_table_gives_the_reason():
  text = tables.table(plan(), CHIP)
  assert "DOES NOT FIT: the resident arrays alone are larger" in text
  assert "reference 4.00 GB" in text
