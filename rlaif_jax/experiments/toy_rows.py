# SPDX-License-Identifier: Apache-2.0
"""Runs the arms of an experiment seed by seed, and saves each finished arm.

A row of rows.jsonl is a measurement with its arm, seed and stage.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any, Callable, Protocol, Sequence

from rlaif_jax.core import jsonl
from rlaif_jax.engine import preemption
from rlaif_jax.engine import metrics

Row = dict[str, str | int | float]
Rows = list[Row]
# The rows of each stage, and the rows of costs.jsonl.
ArmResult = tuple[dict[str, Rows], Rows]


class Arm(Protocol):
  """A method that an experiment compares with others."""

  name: str


def run_arms(
  *,
  output_dir: str,
  arms: Sequence[Arm],
  seeds: Sequence[int],
  open_seed: Callable[[int], Callable[[Any], ArmResult]],
) -> dict[str, str | list[str] | list[int]]:
  """Runs the arms whose rows are missing, and returns the job's result.

  Args:
    output_dir: directory of rows.jsonl and costs.jsonl.
    arms: methods to compare.
    seeds: of worlds, data and training.
    open_seed: makes the data of a seed and returns the function that runs one
      arm on it; called once for each seed with missing arms.

  Raises:
    ValueError: two arms have one name.
    preemption.Preempted: a stop was requested; finished arms are saved.
  """
  names = [arm.name for arm in arms]
  if len(set(names)) < len(names):
    raise ValueError(f"the arms are named {names}; names must be unique")
  directory = pathlib.Path(output_dir)
  done = finished(directory)
  units = [(seed, arm) for seed in seeds for arm in arms]
  left = [unit for unit in units if (unit[0], unit[1].name) not in done]
  progress = metrics.Progress(
    "toy_world", len(units), done=len(done), unit="arms"
  )
  opened, run = None, None
  for number, (seed, arm) in enumerate(left):
    if preemption.requested():
      raise preemption.Preempted(
        f"toy_world: stopped before {arm.name}, seed {seed}"
      )
    if run is None or opened != seed:
      opened, run = seed, open_seed(seed)
    stages, costs = run(arm)
    base = {"arm": arm.name, "seed": seed}
    rows = [
      {**base, "stage": stage, **row}
      for stage, found in stages.items()
      for row in found
    ]
    # Costs first: rows mark an arm as finished.
    append(directory / "costs.jsonl", [{**base, **cost} for cost in costs])
    append(directory / "rows.jsonl", rows)
    progress.update(
      len(done) + number + 1, f"{arm.name}, gold {rows[-1]['gold']:.2f}"
    )
  return {
    "rows": str(directory / "rows.jsonl"),
    "arms": names,
    "seeds": list(seeds),
  }


def finished(directory: pathlib.Path) -> set[tuple[int, str]]:
  """Returns the (seed, arm) of all rows in rows.jsonl."""
  path = directory / "rows.jsonl"
  if not path.exists():
    return set()
  return {
    (row["seed"], row["arm"]) for row in jsonl.parse_rows(path, jsonl.row_of)
  }


def append(path: pathlib.Path, rows: Rows) -> None:
  """Appends rows in one atomic write."""
  if not rows:
    return
  before = path.read_text("utf-8") if path.exists() else ""
  text = "".join(
    json.dumps(jsonl.finite(row), sort_keys=True) + "\n" for row in rows
  )
  jsonl.write_text(path, before + text)
