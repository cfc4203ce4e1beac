# SPDX-License-Identifier: Apache-2.0
"""The plan: what fits, what it costs, and what to change when it does not."""

from __future__ import annotations

import dataclasses
import json

import jax
import pytest

from rlaif_jax.data import converters
from rlaif_jax.jobs import plan_run
from rlaif_jax.planner import chips
from rlaif_jax.planner import programs
from tests import testing
from tests import tiny_plan

CHIP = chips.Chip(
  name="tiny", memory=1e9, flops=1e9, memory_bandwidth=1e9, link_bandwidth=1e9
)


@pytest.fixture
def chip(monkeypatch):
  """Makes this machine's devices chips of a given memory."""

  def make(memory):
    kind = jax.devices()[0].device_kind
    known = {kind: dataclasses.replace(CHIP, memory=memory)}
    monkeypatch.setattr(chips, "CHIPS", known)

  return make


@pytest.fixture
def uncompiled(monkeypatch):
  """Every program costs the same, and nothing is compiled."""
  found = tiny_plan.cost_of_ones(memory=1e6, compute=2.0)
  monkeypatch.setattr(programs, "measure", lambda *_, **__: found)


def plan(tmp_path, model=tiny_plan.DECODER, **changes):
  """Plans 3600 SFT updates of the tiny models, or what `changes` says."""
  counts = {"sft_updates": 3600, "reward_updates": 0, "policy_updates": 0}
  run = {
    k: changes.pop(k) for k in ("topology", "chip", "search") if k in changes
  }
  settings = tiny_plan.settings(model, **{**counts, **changes})
  return plan_run.run(output_dir=str(tmp_path), **settings, **run)


def stored(tmp_path):
  return json.loads((tmp_path / "plan.json").read_text())


def test_a_plan_that_fits(tmp_path, chip, capsys):
  chip(1e9)
  result = plan(tmp_path)
  assert result["chips"] == f"{len(jax.devices())} x tiny"
  assert (result["meshes"], result["advice"]) == ({"sft": "data:-1"}, {})
  (one,) = stored(tmp_path)["phases"]["sft"]
  (row,) = one["programs"]
  seconds = max(row["compute"], row["memory_time"], row["links"])
  assert row["seconds"] == seconds
  assert one["hours"] == pytest.approx(3600 * seconds / 3600)
  assert row["memory"] == one["memory"] > row["resident"] == 0
  out = capsys.readouterr().out
  assert "SFT update" in out and "fits; 3600 updates take" in out
  assert "data:-1: compiling SFT update\n" in out


def test_another_mesh_is_found_if_the_requested_one_does_not_fit(
  tmp_path, chip
):
  # Parameters and their moments are most of it.
  model = testing.tiny_decoder(4096, width=64)
  short = converters.SequenceConfig(max_context=6, max_response=2)
  small = {"model": model, "sequence": short, "batch_size": 8}
  chip(1e9)
  plan(tmp_path, **small)
  (everywhere,) = stored(tmp_path)["phases"]["sft"]
  # A little less than what a device needs when it holds all parameters.
  chip(everywhere["memory"] * 0.95)
  result = plan(tmp_path, **small)
  assert result["meshes"]["sft"].startswith("fsdp:-1")
  assert "use mesh=fsdp:-1" in result["advice"]["sft"]
  alone = plan(tmp_path, search="none", **small)
  assert alone["meshes"]["sft"] is None and alone["hours"] is None


def test_meshes_that_rows_do_not_divide_by_are_skipped(
  tmp_path, chip, uncompiled
):
  chip(1e9)
  devices = len(jax.devices())
  result = plan(tmp_path, batch_size=devices // 2, sft_updates=1)
  assert result["meshes"]["sft"] == "fsdp:-1,model:2"
  tried = stored(tmp_path)["phases"]["sft"]
  reason = f"{devices // 2} rows do not divide by {devices} data devices"
  assert [(p["mesh"], p["reason"]) for p in tried] == [
    ("data:-1", reason),
    ("fsdp:-1", reason),
    ("fsdp:-1,model:2", ""),
  ]
  assert tried[0]["programs"] == []


def test_models_that_are_too_large_are_not_compiled(tmp_path, chip, capsys):
  chip(10.0)
  result = plan(tmp_path, search="none")
  assert "the resident arrays alone are larger" in capsys.readouterr().out
  assert stored(tmp_path)["phases"]["sft"][0]["programs"] == []
  assert result["chips_needed"] > len(jax.devices())
  assert "then more chips, about" in result["advice"]["sft"]


def test_compilers_that_run_out_of_memory_give_a_reason(
  tmp_path, chip, monkeypatch
):
  chip(1e9)

  def full(*_, **__):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 20G of 15G\nmore")

  monkeypatch.setattr(programs, "measure", full)
  result = plan(tmp_path, search="none")
  (one,) = stored(tmp_path)["phases"]["sft"]
  assert one["reason"] == "SFT update: RESOURCE_EXHAUSTED: 20G of 15G"
  assert result["meshes"] == {"sft": None} and result["hours"] is None


def test_each_phase_has_its_own_mesh(tmp_path, chip, uncompiled):
  """Here because the pairs of an update are fewer than its texts."""
  chip(1e9)
  devices = len(jax.devices())
  result = plan(
    tmp_path,
    batch_size=2 * devices,
    reward_batch_size=devices // 2,
    sft_updates=1,
    reward_updates=1,
  )
  assert result["meshes"] == {"sft": "data:-1", "reward": "fsdp:-1,model:2"}
  phases = stored(tmp_path)["phases"]
  hours = sum(plans[-1]["hours"] for plans in phases.values())
  assert stored(tmp_path)["hours"] == hours == 2 * 2.0 / 3600


def test_all_meshes_are_tried_for_the_fastest(tmp_path, chip, monkeypatch):
  chip(1e9)

  def measure(program, *_, **__):
    # Each mesh that is tried is faster than the one before, but the last.
    count = len(tried)
    tried.append(program.name)
    return tiny_plan.cost_of_ones(
      memory=1e6, compute=9.0 if count == 4 else 8.0 - count
    )

  tried = []
  monkeypatch.setattr(programs, "measure", measure)
  model = testing.tiny_decoder(64, num_heads=8, num_kv_heads=8, mlp_dim=96)
  result = plan(tmp_path, model=model, search="fastest")
  assert len(tried) == len(stored(tmp_path)["phases"]["sft"]) == 5
  assert result["meshes"] == {"sft": "fsdp:-1,model:4"}
  assert result["hours"] == stored(tmp_path)["hours"] == 5.0
  assert "data:-1 takes 8.00 hours, not 5.00" in result["advice"]["sft"]


def test_memory_and_rates_of_another_chip(tmp_path, uncompiled):
  result = plan(tmp_path, chip="H100 SXM")
  assert result["chips"].endswith("x H100 SXM")
  assert stored(tmp_path)["chip"]["memory"] == 80e9


def test_a_tpu_that_does_not_exist(tmp_path):
  testing.need_tpu_compiler()
  # Heads and widths that a mesh axis of four divides.
  model = testing.tiny_decoder(64, width=32, mlp_dim=96, num_heads=4)
  result = plan(
    tmp_path,
    model=model,
    topology="v5e:4x4",
    mesh="fsdp:4,model:4",
    batch_size=16,
  )
  assert result["chips"] == "16 x TPU v5e"
  (one,) = stored(tmp_path)["phases"]["sft"]
  (row,) = one["programs"]
  assert row["collectives"] and row["flops"] > 0 and one["fits"]


def test_an_unknown_search_is_named(tmp_path, chip):
  chip(1e9)
  with pytest.raises(ValueError, match="plan.search is 'all'; use one of"):
    plan(tmp_path, search="all")
