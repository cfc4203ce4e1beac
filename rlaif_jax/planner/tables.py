# SPDX-License-Identifier: Apache-2.0
"""Tables of a plan, the number of chips that it needs, and advice."""

from __future__ import annotations

import math
from typing import Mapping, Sequence, TypedDict

from rlaif_jax.planner import chips
from rlaif_jax.planner import run_spec


class ProgramRow(TypedDict):
  """A program of a plan: fields of `program_costs.Cost`, and these.

  `memory` includes `resident`, the bytes that are not the program's. `mfu` is
  the part of the chip's peak rate that `Shapes.update_flops` use at the
  roofline; 0 of what is no update.
  """

  program: str
  runs: int
  memory: float
  arguments: float
  temporary: float
  flops: float
  bytes_accessed: float
  collectives: list[dict[str, float]]
  compute: float
  memory_time: float
  links: float
  resident: float
  seconds: float
  bound: str
  mfu: float
  compile_seconds: float


class Plan(TypedDict):
  """A phase on one mesh, as in plan.json; bytes are of one device."""

  phase: str
  mesh: str
  programs: list[ProgramRow]
  resident: dict[str, float]
  memory: float
  chips_needed: int
  fits: bool
  reason: str
  updates: int
  hours: float


def table(plan: Plan, chip: chips.Chip) -> str:
  """Returns one line per program of a phase on a mesh, and a summary."""
  lines = [
    f"{plan['phase']}, mesh {plan['mesh']}, {chip.name} with "
    f"{chip.memory / 1e9:.0f} GB",
  ]
  if plan["programs"]:
    lines.append(
      f"{'program':24}{'runs':>6}{'memory':>17}{'TFLOP':>9}{'GB HBM':>9}"
      f"{'GB sent':>9}{'ms':>10}{'MFU':>6}  bound by"
    )
  for row in plan["programs"]:
    sent = sum(c["sent_bytes"] for c in row["collectives"])
    share = 100 * row["memory"] / chip.memory
    mfu = f"{row['mfu']:.0%}" if row["mfu"] else ""
    lines.append(
      f"{row['program']:24}{row['runs']:6}"
      f"{row['memory'] / 1e9:8.2f} GB {share:3.0f} %"
      f"{row['flops'] / 1e12:9.2f}{row['bytes_accessed'] / 1e9:9.1f}"
      f"{sent / 1e9:9.2f}{1e3 * row['seconds']:10.1f}"
      f"{mfu:>6}  {row['bound']}"
    )
  parts = ", ".join(
    f"{name} {size / 1e9:.2f} GB" for name, size in plan["resident"].items()
  )
  if parts:
    lines.append(f"resident: {parts}")
  if plan["fits"]:
    lines.append(
      f"fits; {plan['updates']} updates take "
      f"{plan['hours']:.2f} hours at the roofline"
    )
  else:
    lines.append(f"DOES NOT FIT: {plan['reason']}")
  return "\n".join(lines)


def best(plans: Sequence[Plan]) -> Plan:
  """Returns the fastest of the plans that fit, or else the last plan."""
  fitting = [plan for plan in plans if plan["fits"]]
  return min(fitting, key=lambda plan: plan["hours"], default=plans[-1])


def hours(plans: Mapping[str, Plan]) -> float:
  """Returns the hours of all phases at the roofline."""
  return sum(plan["hours"] for plan in plans.values())


def summary(plans: Mapping[str, Plan], count: int, chip: chips.Chip) -> str:
  """Returns one line about all phases, given the plan of each."""
  bad = [phase for phase, plan in plans.items() if not plan["fits"]]
  if bad:
    return f"does not fit on {count} x {chip.name}: {', '.join(bad)}"
  total = hours(plans)
  meshes = ", ".join(f"{phase} {p['mesh']}" for phase, p in plans.items())
  needed = max(plan["chips_needed"] for plan in plans.values())
  return (
    f"fits on {count} x {chip.name} ({meshes}); about {needed} suffice; "
    f"{total:.2f} hours, {total * count:.0f} chip hours at the roofline"
  )


def chips_needed(memory: float, count: int, chip: chips.Chip) -> int:
  """Returns the least power of two of chips with the memory of `count`.

  A slight underestimate, because not every array is sharded over all chips.
  """
  return 2 ** max(0, math.ceil(math.log2(max(1, count * memory / chip.memory))))


def advice(
  plans: Sequence[Plan], spec: run_spec.RunSpec, chip: chips.Chip
) -> str:
  """Returns what to change, given the plans that were tried; "" if nothing."""
  requested, chosen = plans[0], best(plans)
  if chosen is requested and requested["fits"]:
    return ""
  if chosen["fits"]:
    problem = f"does not fit ({requested['reason']})"
    if requested["fits"]:
      problem = (
        f"takes {requested['hours']:.2f} hours, not {chosen['hours']:.2f}"
      )
    return f"{requested['mesh']} {problem}; use mesh={chosen['mesh']}"
  tried = ", ".join(plan["mesh"] for plan in plans)
  possible = [plan for plan in plans if plan["resident"]]
  if not possible:
    reasons = "; ".join(f"{p['mesh']}: {p['reason']}" for p in plans)
    return f"none of {tried} is possible ({reasons}); change the batch size"
  nearest = min(possible, key=lambda plan: plan["memory"])
  resident = nearest["resident"]
  hints = []
  if nearest["programs"]:  # The models fit, the activations do not.
    if spec.compute.remat != "full":
      hints.append("remat='full'")
    hints.append(f"microbatches={2 * spec.compute.microbatches}")
  frozen = resident.get("reference", 0) + resident.get("scorer", 0)
  placements = (spec.compute.placement.reference, spec.models.scorer_placement)
  if frozen and any(placement.dtype == "float32" for placement in placements):
    saved = frozen / 2e9
    hints.append(
      "Placement.dtype='bfloat16' for reference and scorer (saves up to "
      f"{saved:.1f} GB)"
    )
  state = resident["optimizer state"]
  if spec.optimizer.name != "adafactor":
    hints.append(f"Adafactor (optimizer state takes {state / 1e9:.1f} GB)")
  needs = f"{nearest['memory'] / 1e9:.1f} of {chip.memory / 1e9:.0f} GB"
  hints.append(f"more chips, about {nearest['chips_needed']}")
  return (
    f"none of {tried} fits; {nearest['mesh']} comes nearest with {needs}; try "
    f"{', then '.join(hints)}"
  )
