# SPDX-License-Identifier: Apache-2.0
"""The shipped plans: the resident arrays fit, and nightly whole programs."""

from __future__ import annotations

import dataclasses
import json

import pytest

from rlaif_jax import main
from rlaif_jax.cli import command_line
from rlaif_jax.cli import gin_reader
from rlaif_jax.cli import resolution
from rlaif_jax.planner import chips
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.jobs import plan_run
from rlaif_jax.planner import programs
from rlaif_jax.planner import run_spec
from rlaif_jax.planner import search
from rlaif_jax.models import decoder
from tests import testing
from tests.house import source

# (recipe, size, topology): each should fit.
PLANS = (
  ("decoder_dialogue_plan", "decoder_2b", "v5e:4x4"),
  ("decoder_plan", "decoder_2b", "v5e:4x4"),
  ("decoder_plan", "decoder_8b", "v5e:16x16"),
  ("decoder_plan", "decoder_8b", "v5p:4x4x2"),
  ("decoder_plan", "decoder_8b", "v6e:8x8"),
  ("decoder_drlaif_plan", "decoder_8b", "v5e:16x16"),
  ("decoder_long_plan", "decoder_2b", "v5e:4x4"),
  ("decoder_lora_plan", "decoder_8b", "v5e:4x4"),
  ("t5_plan", "t5_1_1_xl", "v5e:16x16"),
  ("t5_drlaif_plan", "t5_1_1_xl", "v5e:16x16"),
)


def command(recipe, size, topology):
  return [
    "--job=plan",
    f"--gin_file=gin_configs/recipes/{recipe}.gin",
    f"--gin_file=gin_configs/models/{size}.gin",
    f"--topology={topology}",
  ]


def spec_of(recipe, size, topology):
  """The run that a recipe plans."""
  parsed = command_line.parse(command(recipe, size, topology))
  parsed = command_line.bind_parameters(parsed, plan_run.run)
  arguments = resolution.resolve(
    "plan", gin_reader.read_command(parsed), {"plan": plan_run.run}
  )
  fields = {field.name for field in dataclasses.fields(run_spec.RunSpec)}
  return run_spec.RunSpec(**{k: arguments[k] for k in fields})


def sft_by_hand(spec):
  """FLOPs of a decoder's SFT update: 8 N D, with rematerialized layers."""
  c, rows = spec.models.policy, spec.phases.batch_size
  response = spec.sequence.max_response
  columns = spec.sequence.max_context + response
  heads, keys = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
  mlp = c.width * c.mlp_dim
  layer = 2 * c.width * (heads + keys) + 3 * mlp
  # The last product of a layer is not rematerialized.
  products = (8 * layer - 2 * mlp) * rows * columns
  # Scores and their sums, of which half are masked: once, again, backward.
  products += 4 * 2 * columns**2 * heads * rows
  logits = 6 * rows * response * c.width * c.vocab_size
  return c.num_layers * products + logits


def test_every_plan_is_listed():
  recipes = (source.ROOT / "gin_configs" / "recipes").glob("*_plan.gin")
  assert {path.stem for path in recipes} == {recipe for recipe, _, _ in PLANS}


# A model of 32 layers takes a minute or two to trace on every mesh.
@pytest.mark.parametrize(
  "recipe, size, topology",
  PLANS if testing.IS_NIGHT else PLANS[:1],
)
def test_the_resident_arrays_fit(recipe, size, topology):
  """On some mesh that the rows divide by; nothing is compiled."""
  testing.need_tpu_compiler()
  spec = spec_of(recipe, size, topology)
  devices = chips.devices_of(topology)
  chip = chips.chip_of(devices[0])
  for phase in run_spec.PHASES:
    if not spec.phases.updates(phase):
      continue
    meshes = [mesh_lib.make_mesh(m, devices) for m in search.MESHES]
    meshes = [mesh for mesh in meshes if not spec.indivisible(phase, mesh)]
    held = [
      sum(programs.resident_bytes(spec, phase, mesh).values())
      for mesh in meshes
    ]
    assert min(held) < 0.8 * chip.memory, (phase, held)


@testing.AT_NIGHT
@pytest.mark.parametrize("recipe, size, topology", PLANS)
def test_the_real_compiler_says_that_it_fits(
  tmp_path, capsys, recipe, size, topology
):
  testing.need_tpu_compiler()
  arguments = command(recipe, size, topology)
  code = main.main([*arguments, f"--output_dir={tmp_path}"])
  printed = capsys.readouterr()
  assert code == 0, printed.err
  devices = len(chips.devices_of(topology))
  assert f"fits on {devices} x" in printed.out
  phases = json.loads((tmp_path / "plan.json").read_text())["phases"]
  spec = spec_of(recipe, size, topology)
  if "sft" in phases and isinstance(spec.models.policy, decoder.DecoderConfig):
    (row,) = phases["sft"][-1]["programs"]
    expected = sft_by_hand(spec) / devices
    assert row["flops"] == pytest.approx(expected, rel=0.1)
