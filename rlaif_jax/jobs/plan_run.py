# SPDX-License-Identifier: Apache-2.0
"""Will it fit, and how long will it take? Without the chips.

Compiles the jitted programs of a recipe for a TPU topology that is not here
(or for the devices of this process), with the real compiler, and reads off
memory, FLOPs, bytes and collectives of each. Nothing is run or loaded. Each
phase is a job of its own with a mesh of its own, so each is planned alone.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import time
from typing import Any

import jax

from rlaif_jax.core import compute as compute_lib
from rlaif_jax.core import job_spec
from rlaif_jax.core import jsonl
from rlaif_jax.data import converters
from rlaif_jax.planner import chips
from rlaif_jax.engine import decode
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.engine import optimizer as optimizer_lib
from rlaif_jax.planner import plan_tables
from rlaif_jax.planner import planned_programs
from rlaif_jax.planner import planned_shapes
from rlaif_jax.models import architectures
from rlaif_jax.rl import algorithms

JOB = job_spec.JobSpec(always_rerun=True)

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
  steps: planned_shapes.Steps,
  rl: algorithms.RLConfig,
  optimizer: optimizer_lib.OptimizerConfig,
  reward_model: architectures.Config | None = None,
  labeler: architectures.Config | None = None,
  rating_tokens: int = 256,
  batch_size: int = 128,
  reward_batch_size: int = 0,
  microbatches: int = 1,
  remat: str = "none",
  scan_layers: bool = False,
  read_dtype: str = "float32",
  rollout: compute_lib.Placement | None = None,
  topology: str = "",
  chip: str = "",
  mesh: str = "data:-1",
  search: bool = True,
  fastest: bool = False,
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
    reward_batch_size: pairs per update of the reward model; 0: batch_size.
    microbatches: parts of a batch whose gradients are added.
    remat: what the backward pass keeps of each layer.
    scan_layers: layers of updates are one loop; see `train_sft`.
    read_dtype: of the parameters of reference and scorer.
    rollout: where the policy's copy lies that samples; see
      `train_policy.PlacementConfig`.
    topology: such as "v5e:16x16" (chips); "": the devices of this process.
    chip: judge by the memory and the rates of this chip, such as "H100 SXM",
      what was compiled for another; "": those of the devices.
    mesh: devices.
    search: try other meshes where this one does not fit.
    fastest: try all of them, and take the one that takes the least time.
  """
  if topology:
    # Programs of chips that are not here cannot be read back.
    jax.config.update("jax_enable_compilation_cache", False)
  devices = chips.devices_of(topology)
  known = chips.chip_named(chip) if chip else chips.chip_of(devices[0])
  recipe = planned_shapes.Recipe(
    model=model,
    reward_model=reward_model or model,
    labeler=labeler,
    rating_tokens=rating_tokens,
    sequence=sequence,
    sampling=sampling,
    rl=rl,
    optimizer=optimizer,
    batch_size=batch_size,
    reward_batch_size=reward_batch_size,
    read_dtype=read_dtype,
    rollout=rollout,
    microbatches=microbatches,
    remat=remat,
    scan_layers=scan_layers,
  )
  meshes = [mesh, *(text for text in MESHES if search and text != mesh)]
  phases = {
    phase: plan_phase(
      recipe, steps, phase, meshes, devices, known, all_meshes=fastest
    )
    for phase in planned_shapes.PHASES
    if getattr(steps, phase)
  }
  found = {phase: plan_tables.taken(plans) for phase, plans in phases.items()}
  fits = all(plan["fits"] for plan in found.values())
  hours = plan_tables.hours(found) if fits else None
  advice = {
    phase: said
    for phase, plans in phases.items()
    if (said := plan_tables.advice(plans, recipe, known))
  }
  result = {
    "topology": topology,
    "devices": len(devices),
    "chip": dataclasses.asdict(known),
    "phases": phases,
    "fits": fits,
    "hours": hours,
    "advice": advice,
  }
  print(plan_tables.summary(found, len(devices), known), flush=True)
  path = pathlib.Path(output_dir) / "plan.json"
  jsonl.write_text(path, json.dumps(result, indent=1, sort_keys=True) + "\n")
  return {
    "plan": str(path),
    "chips": f"{len(devices)} x {known.name}",
    "meshes": {
      p: plan["mesh"] if plan["fits"] else None for p, plan in found.items()
    },
    "chips_needed": max(plan["chips_needed"] for plan in found.values()),
    "hours": hours and round(hours, 2),
    "advice": advice,
  }


def plan_phase(
  recipe: planned_shapes.Recipe,
  steps: planned_shapes.Steps,
  phase: str,
  meshes: list[str],
  devices: list[Any],
  chip: chips.Chip,
  *,
  all_meshes: bool,
) -> list[dict[str, Any]]:
  """Plans of a phase on meshes: of all, or up to the first that fits."""
  plans = []
  for text in meshes:
    plan = plan_mesh(recipe, phase, text, devices, chip)
    updates = getattr(steps, phase)
    plan["updates"] = updates
    seconds = sum(row["runs"] * row["seconds"] for row in plan["programs"])
    plan["hours"] = updates * seconds / 3600
    plans.append(plan)
    print(plan_tables.table(plan, chip), flush=True)
    if plan["fits"] and not all_meshes:
      break
  return plans


def plan_mesh(
  recipe: planned_shapes.Recipe,
  phase: str,
  text: str,
  devices: list[Any],
  chip: chips.Chip,
) -> dict[str, Any]:
  """Costs of a phase's programs on one mesh, up to one that does not fit.

  What needs no compiler is looked at first: whether the devices make such a
  mesh, whether rows divide by it, whether the models alone are too large.
  """
  plan = {
    "phase": phase,
    "mesh": text,
    "programs": [],
    "resident": {},
    "memory": 0.0,
    "chips_needed": len(devices),
    "fits": False,
    "reason": "",
  }
  try:
    mesh = mesh_lib.make_mesh(text, devices)
  except ValueError as error:
    return {**plan, "reason": str(error)}
  if misfit := recipe.misfit(phase, mesh):
    return {**plan, "reason": misfit}
  resident = planned_programs.resident(recipe, phase, mesh)
  plan["resident"] = resident
  plan["memory"] = sum(resident.values())
  if plan["memory"] > chip.memory:
    plan["reason"] = "the models alone are larger"
  for program in planned_programs.programs_of(recipe, phase, mesh):
    if plan["reason"]:
      break
    try:
      if program.part != "turn":  # That is of the program before it.
        print(f"{text}: compiling {program.name}", flush=True)
      row = measured(program, chip, devices[0].platform == "tpu")
    except jax.errors.JaxRuntimeError as error:
      if "RESOURCE_EXHAUSTED" not in str(error):
        raise
      said = str(error).splitlines()[0]
      plan["reason"] = f"{program.name}: {said:.300}"
      break
    plan["programs"].append(row)
    plan["memory"] = max(plan["memory"], row["memory"])
    if row["memory"] > chip.memory:
      plan["reason"] = f"{program.name} needs more"
  plan["fits"] = not plan["reason"]
  plan["chips_needed"] = plan_tables.chips_needed(
    plan["memory"], len(devices), chip
  )
  return plan


def measured(
  program: planned_programs.Program, chip: chips.Chip, for_tpu: bool
) -> dict[str, Any]:
  """One program's row of a plan."""
  begin = time.monotonic()
  found = planned_programs.measure(program, chip, for_tpu=for_tpu)
  return {
    "program": program.name,
    "runs": program.runs,
    **dataclasses.asdict(found),
    "memory": found.memory + program.held,
    "held": program.held,
    "seconds": found.seconds,
    "bound": found.bound,
    "compile_seconds": round(time.monotonic() - begin, 1),
  }
