# SPDX-License-Identifier: Apache-2.0
"""Plans a run: its memory and time on devices that need not exist.

Compiles the jitted programs of every phase for a TPU topology (or for the
devices of this process) and reports memory, FLOPs, memory traffic and
collectives of each. Nothing is run or loaded. Each phase is a job of its own
and may have a mesh of its own.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib

import jax

from rlaif_jax.core import compute as compute_lib
from rlaif_jax.core import job_spec
from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.data import converters
from rlaif_jax.engine import optimizer as optimizer_lib
from rlaif_jax.planner import chips
from rlaif_jax.planner import run_spec
from rlaif_jax.planner import search as search_lib
from rlaif_jax.planner import tables
from rlaif_jax.rl import algorithms

JOB = job_spec.JobSpec(always_rerun=True)


def run(
  *,
  output_dir: str,
  models: run_spec.PlanModels,
  sequence: converters.SequenceConfig,
  rl: algorithms.RLConfig,
  optimizer: optimizer_lib.OptimizerConfig,
  phases: run_spec.PlanPhases,
  compute: compute_lib.ComputeConfig,
  topology: str = "",
  chip: str = "",
  search: str = "fits",
) -> records.Row:
  """Prints a table, and writes plan.json.

  Args:
    output_dir: directory that receives plan.json.
    models: sizes of the models, and how the frozen ones are stored.
    sequence: lengths of prompts, and of responses in SFT and reward training.
    rl: objective, algorithm and sampling of the policy phase.
    optimizer: optimizer of every trained model.
    phases: number of updates and batch size of each phase.
    compute: mesh, microbatches, remat and scan_layers.
    topology: TPU topology to compile for, such as "v5e:16x16" (chips); "" uses
      the devices of this process.
    chip: name of a chip, such as "H100 SXM", whose memory and rates are used in
      place of those of the devices.
    search: "none" plans on the mesh of `compute` alone; "fits" tries other
      meshes if that does not fit; "fastest" tries all, and takes the fastest.
  """
  if topology:
    # Programs for devices that do not exist cannot be read back.
    jax.config.update("jax_enable_compilation_cache", False)
  devices = chips.devices_of(topology)
  known = chips.chip_named(chip) if chip else chips.chip_of(devices[0])
  spec = run_spec.RunSpec(
    models=models,
    sequence=sequence,
    rl=rl,
    optimizer=optimizer,
    phases=phases,
    compute=compute,
  )
  # 1. Plans of each phase on one mesh after another.
  plans = {
    phase: search_lib.plan_phase(
      spec,
      phase,
      devices,
      known,
      search=search,
      report=functools.partial(print, flush=True),
    )
    for phase in run_spec.PHASES
    if phases.updates(phase)
  }
  # 2. The mesh of each phase, and what to change.
  best = {phase: tables.best(tried) for phase, tried in plans.items()}
  fits = all(plan["fits"] for plan in best.values())
  hours = tables.hours(best) if fits else None
  advice = {
    phase: text
    for phase, tried in plans.items()
    if (text := tables.advice(tried, spec, known))
  }
  result = {
    "topology": topology,
    "devices": len(devices),
    "chip": dataclasses.asdict(known),
    "phases": plans,
    "fits": fits,
    "hours": hours,
    "advice": advice,
  }
  print(tables.summary(best, len(devices), known), flush=True)
  path = pathlib.Path(output_dir) / "plan.json"
  jsonl.write_text(path, json.dumps(result, indent=1, sort_keys=True) + "\n")
  return {
    "plan": str(path),
    "chips": f"{len(devices)} x {known.name}",
    "meshes": {
      phase: plan["mesh"] if plan["fits"] else None
      for phase, plan in best.items()
    },
    "chips_needed": max(plan["chips_needed"] for plan in best.values()),
    "hours": hours and round(hours, 2),
    "advice": advice,
  }
