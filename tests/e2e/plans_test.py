# SPDX-License-Identifier: Apache-2.0
"""The plans that are shipped: what they hold fits, and at night all of it."""

from __future__ import annotations

import dataclasses
import json

import pytest

from rlaif_jax import main
from rlaif_jax.cli import command_line
from rlaif_jax.cli import resolution
from rlaif_jax.cli import gin_reader
from rlaif_jax.planner import chips
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.jobs import plan_run
from rlaif_jax.planner import planned_programs
from rlaif_jax.planner import planned_shapes
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


def recipe_of(recipe, size, topology):
  """What a plan is of, and its steps."""
  parsed = command_line.parse(command(recipe, size, topology))
  parsed = command_line.bind_parameters(parsed, plan_run.run)
  arguments = resolution.resolve(
    "plan", gin_reader.read_command(parsed), {"plan": plan_run.run}
  )
  fields = {f.name for f in dataclasses.fields(planned_shapes.Recipe)}
  defaults = plan_run.run.__kwdefaults__
  settings = {k: v for k, v in {**defaults, **arguments}.items() if k in fields}
  settings["reward_model"] = settings["model"]
  return planned_shapes.Recipe(**settings), arguments["steps"]


def sft_by_hand(recipe):
  """FLOPs of a decoder's SFT update: 8 N D, whose layers are computed again."""
  c, rows = recipe.model, recipe.batch_size
  response = recipe.sequence.max_response
  columns = recipe.sequence.max_context + response
  heads, keys = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
  mlp = c.width * c.mlp_dim
  layer = 2 * c.width * (heads + keys) + 3 * mlp
  # Nobody asks again for the last product of a layer.
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
def test_the_models_alone_fit(recipe, size, topology):
  """On some mesh that the rows divide by; nothing is compiled."""
  pytest.importorskip("libtpu")
  planned, steps = recipe_of(recipe, size, topology)
  devices = chips.devices_of(topology)
  memory = chips.chip_of(devices[0]).memory
  for phase in planned_shapes.PHASES:
    if not getattr(steps, phase):
      continue
    meshes = [mesh_lib.make_mesh(m, devices) for m in plan_run.MESHES]
    meshes = [mesh for mesh in meshes if not planned.misfit(phase, mesh)]
    held = [
      sum(planned_programs.resident(planned, phase, mesh).values())
      for mesh in meshes
    ]
    assert min(held) < 0.8 * memory, (phase, held)


@testing.AT_NIGHT
@pytest.mark.parametrize("recipe, size, topology", PLANS)
def test_the_real_compiler_says_that_it_fits(
  tmp_path, capsys, recipe, size, topology
):
  pytest.importorskip("libtpu")
  arguments = command(recipe, size, topology)
  code = main.main([*arguments, f"--output_dir={tmp_path}"])
  printed = capsys.readouterr()
  assert code == 0, printed.err
  devices = len(chips.devices_of(topology))
  assert f"fits on {devices} x" in printed.out
  phases = json.loads((tmp_path / "plan.json").read_text())["phases"]
  planned, _ = recipe_of(recipe, size, topology)
  if "sft" in phases and isinstance(planned.model, decoder.DecoderConfig):
    (row,) = phases["sft"][-1]["programs"]
    expected = sft_by_hand(planned) / devices
    assert row["flops"] == pytest.approx(expected, rel=0.1)
