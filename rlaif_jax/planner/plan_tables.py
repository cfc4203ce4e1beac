# SPDX-License-Identifier: Apache-2.0
"""A plan in words: its tables, chips that it needs, and what to change."""

from __future__ import annotations

import math
from typing import Any, Mapping

from rlaif_jax.planner import chips
from rlaif_jax.planner import planned_shapes


def table(plan: Mapping[str, Any], chip: chips.Chip) -> str:
  """One line per program of a phase on a mesh, and one of the whole."""
  lines = [
    f"{plan['phase']}, mesh {plan['mesh']}, {chip.name} with "
    f"{chip.memory / 1e9:.0f} GB",
  ]
  if plan["programs"]:
    lines.append(
      f"{'program':24}{'runs':>6}{'memory':>17}{'TFLOP':>9}{'GB moved':>9}"
      f"{'GB sent':>9}{'ms':>10}  bound by"
    )
  for row in plan["programs"]:
    sent = sum(c["sent_bytes"] for c in row["collectives"])
    share = 100 * row["memory"] / chip.memory
    lines.append(
      f"{row['program']:24}{row['runs']:6}"
      f"{row['memory'] / 1e9:8.2f} GB {share:3.0f} %"
      f"{row['flops'] / 1e12:9.2f}{row['bytes_accessed'] / 1e9:9.1f}"
      f"{sent / 1e9:9.2f}{1e3 * row['seconds']:10.1f}  {row['bound']}"
    )
  parts = ", ".join(
    f"{name} {size / 1e9:.2f} GB" for name, size in plan["resident"].items()
  )
  if parts:
    lines.append(f"there all the time: {parts}")
  if plan["fits"]:
    lines.append(
      f"fits; {plan['updates']} updates take "
      f"{plan['hours']:.2f} hours at the roofline"
    )
  else:
    lines.append(f"DOES NOT FIT: {plan['reason']}")
  return "\n".join(lines)


def taken(plans: list[dict[str, Any]]) -> dict[str, Any]:
  """Of the plans that fit, the one that takes the least time; else the last."""
  fitting = [plan for plan in plans if plan["fits"]]
  return min(fitting, key=lambda plan: plan["hours"], default=plans[-1])


def hours(found: Mapping[str, Mapping[str, Any]]) -> float:
  """Of all phases at the roofline."""
  return sum(plan["hours"] for plan in found.values())


def summary(
  found: Mapping[str, Mapping[str, Any]], count: int, chip: chips.Chip
) -> str:
  """One line on all phases."""
  bad = [phase for phase, plan in found.items() if not plan["fits"]]
  if bad:
    return f"does not fit on {count} x {chip.name}: {', '.join(bad)}"
  total = hours(found)
  meshes = ", ".join(f"{phase} {p['mesh']}" for phase, p in found.items())
  needed = max(plan["chips_needed"] for plan in found.values())
  return (
    f"fits on {count} x {chip.name} ({meshes}); about {needed} would do; "
    f"{total:.2f} hours, {total * count:.0f} chip hours at the roofline"
  )


def chips_needed(memory: float, count: int, chip: chips.Chip) -> int:
  """The least power of two that would hold what `count` devices hold.

  As if everything were split over all of them, so a little too few.
  """
  return 2 ** max(0, math.ceil(math.log2(max(1, count * memory / chip.memory))))


def advice(
  plans: list[dict[str, Any]], recipe: planned_shapes.Recipe, chip: chips.Chip
) -> str:
  """What to change, from what was tried; "" if nothing."""
  asked, best = plans[0], taken(plans)
  if best is asked and asked["fits"]:
    return ""
  if best["fits"]:
    said = f"does not fit ({asked['reason']})"
    if asked["fits"]:
      said = f"takes {asked['hours']:.2f} hours, not {best['hours']:.2f}"
    return f"{asked['mesh']} {said}; take mesh={best['mesh']}"
  tried = ", ".join(plan["mesh"] for plan in plans)
  possible = [plan for plan in plans if plan["resident"]]
  if not possible:
    reasons = "; ".join(f"{p['mesh']}: {p['reason']}" for p in plans)
    return f"none of {tried} is possible ({reasons}); change the batch size"
  best = min(possible, key=lambda plan: plan["memory"])
  resident = best["resident"]
  hints = []
  if best["programs"]:  # The models fit, what is computed does not.
    if recipe.remat != "full":
      hints.append("remat='full'")
    hints.append(f"microbatches={2 * recipe.microbatches}")
  frozen = resident.get("reference", 0) + resident.get("scorer", 0)
  if frozen and recipe.read_dtype == "float32":
    saved = frozen / 2e9
    hints.append(f"read_dtype='bfloat16' ({saved:.1f} GB less)")
  moments = resident["moments of the optimizer"]
  if recipe.optimizer.name != "adafactor":
    hints.append(f"Adafactor (moments take {moments / 1e9:.1f} GB)")
  needs = f"{best['memory'] / 1e9:.1f} of {chip.memory / 1e9:.0f} GB"
  hints.append(f"more chips, about {best['chips_needed']}")
  return (
    f"none of {tried} fits; {best['mesh']} comes nearest with {needs}; try "
    f"{', then '.join(hints)}"
  )
