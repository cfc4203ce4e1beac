# SPDX-License-Identifier: Apache-2.0
"""Plans a phase of a run on several meshes, and finds those that fit."""

from __future__ import annotations

import dataclasses
import time
from typing import Callable, Sequence

import jax

from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.planner import chips
from rlaif_jax.planner import programs
from rlaif_jax.planner import run_spec
from rlaif_jax.planner import shapes as shapes_lib
from rlaif_jax.planner import tables

# "none" tries the requested mesh alone, "fits" others until one fits,
# "fastest" all of them.
SEARCHES = ("none", "fits", "fastest")

MESHES = (
  "data:-1",
  "fsdp:-1",
  "fsdp:-1,model:2",
  "fsdp:-1,model:4",
  "fsdp:-1,model:8",
)


def plan_phase(
  spec: run_spec.RunSpec,
  phase: str,
  devices: Sequence[jax.Device],
  chip: chips.Chip,
  *,
  search: str = "fits",
  report: Callable[[str], None] = lambda line: None,
) -> list[tables.Plan]:
  """Plans a phase on the mesh of `spec.compute`, and on others.

  Args:
    spec: the run that is planned.
    phase: one of `run_spec.PHASES`.
    devices: devices to compile for.
    chip: memory and rates of each device.
    search: one of `SEARCHES`.
    report: receives progress lines and tables.

  Returns:
    One plan per mesh that was tried; see `plan_mesh`.

  Raises:
    ValueError: if `search` is unknown.
  """
  if search not in SEARCHES:
    raise ValueError(f"plan.search is {search!r}; use one of {SEARCHES}")
  requested = spec.compute.mesh
  others = [text for text in MESHES if text != requested and search != "none"]
  plans = []
  for text in [requested, *others]:
    plan = plan_mesh(spec, phase, text, devices, chip, report=report)
    plans.append(plan)
    report(tables.table(plan, chip))
    if plan["fits"] and search != "fastest":
      break
  return plans


def plan_mesh(
  spec: run_spec.RunSpec,
  phase: str,
  text: str,
  devices: Sequence[jax.Device],
  chip: chips.Chip,
  *,
  report: Callable[[str], None] = lambda line: None,
) -> tables.Plan:
  """Returns the costs of a phase's programs on one mesh.

  Stops at the first program that does not fit. What needs no compiler is
  checked first: that the devices form such a mesh, that the rows divide by it,
  and that the resident arrays fit.
  """
  updates = spec.phases.updates(phase)
  plan: tables.Plan = {
    "phase": phase,
    "mesh": text,
    "programs": [],
    "resident": {},
    "memory": 0.0,
    "chips_needed": len(devices),
    "fits": False,
    "reason": "",
    "updates": updates,
    "hours": 0.0,
  }
  try:
    mesh = mesh_lib.make_mesh(text, list(devices))
  except ValueError as error:
    return {**plan, "reason": str(error)}
  if reason := spec.indivisible(phase, mesh):
    return {**plan, "reason": reason}
  plan["resident"] = programs.resident_bytes(spec, phase, mesh)
  plan["memory"] = sum(plan["resident"].values())
  if plan["memory"] > chip.memory:
    plan["reason"] = "the resident arrays alone are larger"
  for program in programs.programs_of(spec, phase, mesh):
    if plan["reason"]:
      break
    try:
      if program.part != "iteration":  # It shares the program before it.
        report(f"{text}: compiling {program.name}")
      row = measure(program, chip, for_tpu=devices[0].platform == "tpu")
      if program.name.endswith("update"):
        flops = shapes_lib.Shapes(spec, mesh).update_flops(phase)
        row["mfu"] = flops / chip.flops / row["seconds"]
    except jax.errors.JaxRuntimeError as error:
      if "RESOURCE_EXHAUSTED" not in str(error):
        raise
      message = str(error).splitlines()[0]
      plan["reason"] = f"{program.name}: {message:.300}"
      break
    plan["programs"].append(row)
    plan["memory"] = max(plan["memory"], row["memory"])
    if row["memory"] > chip.memory:
      plan["reason"] = f"{program.name} needs more"
  plan["fits"] = not plan["reason"]
  seconds = sum(row["runs"] * row["seconds"] for row in plan["programs"])
  plan["hours"] = updates * seconds / 3600
  plan["chips_needed"] = tables.chips_needed(plan["memory"], len(devices), chip)
  return plan


def measure(
  program: programs.Program, chip: chips.Chip, *, for_tpu: bool
) -> tables.ProgramRow:
  """Returns a program's row of a plan; its memory includes `resident`."""
  begin = time.monotonic()
  cost = programs.measure(program, chip, for_tpu=for_tpu)
  return {
    "program": program.name,
    "runs": program.runs,
    **dataclasses.asdict(cost),
    "memory": cost.memory + program.resident,
    "resident": program.resident,
    "seconds": cost.seconds,
    "bound": cost.bound,
    "mfu": 0.0,
    "compile_seconds": round(time.monotonic() - begin, 1),
  }
