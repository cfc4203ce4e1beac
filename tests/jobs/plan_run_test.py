# SPDX-License-Identifier: Apache-2.0
"""The plan: what fits, what it costs, and what to change when it does not."""

from __future__ import annotations

import dataclasses
import json

import jax
import pytest

from rlaif_jax.data import converters
from rlaif_jax.engine import chips
from rlaif_jax.jobs import plan_run
from rlaif_jax.jobs import planned_programs
from tests import testing
from tests.jobs import planned_programs_test as tiny

CHIP = chips.Chip(
  name="tiny", memory=1e9, flops=1e9, memory_bytes=1e9, link_bytes=1e9
)


@pytest.fixture
def chip(monkeypatch):
  """Makes this machine's devices chips of a given memory."""

  def make(memory):
    kind = jax.devices()[0].device_kind
    known = {kind: dataclasses.replace(CHIP, memory=memory)}
    monkeypatch.setattr(chips, "CHIPS", known)

  return make


def plan(tmp_path, **changes):
  recipe = tiny.recipe()
  settings = {
    field.name: getattr(recipe, field.name)
    for field in dataclasses.fields(recipe)
  }
  settings["steps"] = planned_programs.Steps(sft=3600)
  return plan_run.run(output_dir=str(tmp_path), **{**settings, **changes})


def test_a_plan_that_fits(tmp_path, chip, capsys):
  chip(1e9)
  result = plan(tmp_path)
  assert result["chips"] == f"{len(jax.devices())} x tiny"
  assert (result["mesh"], result["advice"]) == ("data:-1", "")
  stored = json.loads((tmp_path / "plan.json").read_text())
  (one,) = stored["plans"]
  (row,) = one["programs"]
  seconds = max(row["compute"], row["memory_time"], row["links"])
  assert row["seconds"] == seconds
  assert one["hours"] == pytest.approx(3600 * seconds / 3600)
  out = capsys.readouterr().out
  assert "SFT update" in out and "fits; at the roofline" in out


def test_another_mesh_is_found_where_the_asked_one_does_not_fit(tmp_path, chip):
  # Parameters and their moments are most of it.
  model = testing.tiny_decoder(4096, width=64)
  short = converters.SequenceConfig(max_context=6, max_response=2)
  small = {"model": model, "sequence": short, "batch_size": 8}
  chip(1e9)
  plan(tmp_path, **small)
  everywhere = json.loads((tmp_path / "plan.json").read_text())["plans"][0]
  # A little less than what a device needs when it holds all parameters.
  chip(everywhere["memory"] * 0.95)
  result = plan(tmp_path, **small)
  assert result["mesh"].startswith("fsdp:-1")
  assert result["advice"].startswith("data:-1 does not fit; take mesh=fsdp:-1")
  alone = plan(tmp_path, search=False, **small)
  assert alone["mesh"] is None and alone["hours"] is None


def test_what_to_change_when_nothing_fits(tmp_path, chip, capsys):
  chip(10.0)
  result = plan(tmp_path, search=False)
  assert result["advice"] == (
    "none of data:-1 fits; try remat='full', then microbatches=2, then more "
    "chips"
  )
  assert "DOES NOT FIT" in capsys.readouterr().out


def test_a_tpu_that_is_not_here(tmp_path):
  pytest.importorskip("libtpu")
  # Heads and widths that a mesh axis of four divides.
  model = testing.tiny_decoder(64, width=32, mlp_dim=96, num_heads=4)
  result = plan(
    tmp_path,
    model=model,
    reward_model=model,
    topology="v5e:4x4",
    mesh="fsdp:4,model:4",
    batch_size=16,
  )
  assert result["chips"] == "16 x TPU v5e"
  (one,) = json.loads((tmp_path / "plan.json").read_text())["plans"]
  (row,) = one["programs"]
  assert row["collectives"] and row["flops"] > 0 and one["fits"]
