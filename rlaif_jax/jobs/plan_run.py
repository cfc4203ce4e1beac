# SPDX-License-Identifier: Apache-2.0
"""Will it fit, and how long will it take? Without the chips.

Compiles the jitted programs of a recipe for a TPU topology that is not here
(or for the devices of this process), with the real compiler, and reads off
memory, FLOPs, bytes and collectives of each. Nothing is run or loaded.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import time
from typing import Any

from absl import logging
import jax

from rlaif_jax.core import jsonl
from rlaif_jax.data import converters
from rlaif_jax.engine import chips
from rlaif_jax.engine import decode
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.engine import optimizer as optimizer_lib
from rlaif_jax.engine import programs
from rlaif_jax.jobs import planned_programs
from rlaif_jax.models import architectures
from rlaif_jax.rl import algorithms

MADE_ANEW = True

# What is tried where the mesh that was asked for does not fit.
MESHES = (
  "data:-1",
  "fsdp:-1",
  "fsdp:-1,model:2",
  "fsdp:-1,model:4",
  "fsdp:-1,model:8",
)


def run(
  *,
  output_dir: str,
  model: architectures.Config,
  sequence: converters.SequenceConfig,
  sampling: decode.SamplingConfig,
  steps: planned_programs.Steps,
  rl: algorithms.RLConfig,
  optimizer: optimizer_lib.OptimizerConfig,
  reward_model: architectures.Config | None = None,
  labeler: architectures.Config | None = None,
  rating_tokens: int = 256,
  batch_size: int = 128,
  microbatches: int = 1,
  remat: str = "none",
  scan_layers: bool = False,
  topology: str = "",
  mesh: str = "data:-1",
  search: bool = True,
) -> dict[str, Any]:
  """Prints a table, and writes plan.json.

  Args:
    output_dir: where plan.json goes.
    model: sizes of the policy, the reference and the value network.
    sequence: lengths of prompts; responses in training have max_response.
    sampling: of rollouts; max_tokens is their length.
    steps: how many updates each phase makes.
    rl: objective and algorithm.
    optimizer: of everything that is learned.
    reward_model: sizes of the reward model; None: those of `model`.
    labeler: sizes of the labeler that scores in the loop (d-RLAIF) in place
      of the reward model.
    rating_tokens: of the labeler's prompt around context and response.
    batch_size: rows per update.
    microbatches: parts of a batch whose gradients are added.
    remat: what the backward pass keeps of each layer.
    scan_layers: layers of updates are one loop; see `train_sft`.
    topology: such as "v5e:16x16" (chips); "": the devices of this process.
    mesh: devices.
    search: try other meshes where this one does not fit.
  """
  devices = chips.devices_of(topology)
  chip = chips.chip_of(devices[0])
  recipe = planned_programs.Recipe(
    model=model,
    reward_model=reward_model or model,
    labeler=labeler,
    rating_tokens=rating_tokens,
    sequence=sequence,
    sampling=sampling,
    rl=rl,
    optimizer=optimizer,
    batch_size=batch_size,
    microbatches=microbatches,
    remat=remat,
    scan_layers=scan_layers,
  )
  plans = []
  others = [text for text in MESHES if search and text != mesh]
  for text in [mesh, *others]:
    plan = plan_mesh(recipe, steps, mesh_lib.make_mesh(text, devices), chip)
    plans.append({"mesh": text, **plan})
    print(table(plans[-1], chip), flush=True)
    if plan["fits"]:
      break
  best = plans[-1] if plans[-1]["fits"] else None
  result = {
    "topology": topology,
    "devices": len(devices),
    "chip": dataclasses.asdict(chip),
    "plans": plans,
    "advice": advice(plans, recipe),
  }
  path = pathlib.Path(output_dir) / "plan.json"
  jsonl.write_text(path, json.dumps(result, indent=1, sort_keys=True) + "\n")
  return {
    "plan": str(path),
    "chips": f"{len(devices)} x {chip.name}",
    "mesh": best and best["mesh"],
    "hours": best and round(best["hours"], 2),
    "advice": result["advice"],
  }


def plan_mesh(
  recipe: planned_programs.Recipe,
  steps: planned_programs.Steps,
  mesh: jax.sharding.Mesh,
  chip: chips.Chip,
) -> dict[str, Any]:
  """Costs of all programs on one mesh, and of the whole run."""
  rows = []
  for program in planned_programs.programs_of(recipe, steps, mesh):
    begin = time.monotonic()
    found = programs.cost(program.compile(), chip)
    if program.pieces:
      pieces = [
        (times, programs.cost(piece(), chip)) for times, piece in program.pieces
      ]
      found = programs.added(pieces, whole=found)
    took = time.monotonic() - begin
    logging.info("plan: %s compiled in %.1f s", program.name, took)
    updates = getattr(steps, program.phase)
    rows.append(
      {
        "program": program.name,
        "phase": program.phase,
        "runs": program.runs,
        **dataclasses.asdict(found),
        "seconds": found.seconds,
        "bound": found.bound,
        "run_seconds": updates * program.runs * found.seconds,
        "compile_seconds": round(took, 1),
      }
    )
  peak = max(row["memory"] for row in rows)
  return {
    "programs": rows,
    "memory": peak,
    "fits": peak <= chip.memory,
    "hours": sum(row["run_seconds"] for row in rows) / 3600,
  }


def table(plan: dict[str, Any], chip: chips.Chip) -> str:
  """One line per program, and one of the whole."""
  lines = [
    f"mesh {plan['mesh']}, {chip.name} with {chip.memory / 1e9:.0f} GB",
    f"{'program':24}{'runs':>6}{'memory':>17}{'TFLOP':>9}{'GB read':>9}"
    f"{'GB sent':>9}{'ms':>9}  bound by",
  ]
  for row in plan["programs"]:
    sent = sum(c["sent_bytes"] for c in row["collectives"])
    share = 100 * row["memory"] / chip.memory
    lines.append(
      f"{row['program']:24}{row['runs']:6}"
      f"{row['memory'] / 1e9:8.2f} GB {share:3.0f} %"
      f"{row['flops'] / 1e12:9.2f}{row['bytes_accessed'] / 1e9:9.1f}"
      f"{sent / 1e9:9.2f}{1e3 * row['seconds']:9.1f}  {row['bound']}"
    )
  lines.append(
    f"{'fits' if plan['fits'] else 'DOES NOT FIT'}; at the roofline the whole "
    f"run takes {plan['hours']:.2f} hours"
  )
  return "\n".join(lines)


def advice(plans: list[dict[str, Any]], recipe: planned_programs.Recipe) -> str:
  """What to change, from what was tried."""
  asked, last = plans[0], plans[-1]
  if asked["fits"]:
    return ""
  if last["fits"]:
    return f"{asked['mesh']} does not fit; take mesh={last['mesh']}"
  tried = ", ".join(plan["mesh"] for plan in plans)
  hints = []
  if recipe.remat != "full":
    hints.append("remat='full'")
  if recipe.microbatches < recipe.batch_size:
    hints.append(f"microbatches={2 * recipe.microbatches}")
  hints.append("more chips")
  return f"none of {tried} fits; try {', then '.join(hints)}"
