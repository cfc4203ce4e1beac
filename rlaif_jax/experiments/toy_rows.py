# SPDX-License-Identifier: Apache-2.0
"""Arms of a rig on its seeds, one after the other, each kept when it is done.

A row of rows.jsonl is a measurement. It has the arm, the seed and its stage.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any, Callable, Sequence

from rlaif_jax.core import jsonl
from rlaif_jax.engine import preemption
from rlaif_jax.engine import metrics

Rows = list[dict[str, Any]]
# An arm -> its stages with their rows, and its lines of costs.jsonl.
OfArm = Callable[[Any], tuple[dict[str, Rows], Rows]]


def run_arms(
  job: str,
  *,
  output_dir: str,
  arms: Sequence[Any],
  seeds: Sequence[int],
  of_seed: Callable[[int], OfArm],
) -> dict[str, Any]:
  """Runs what is not there yet, and returns the job's result.

  Args:
    job: its name, for progress and errors.
    output_dir: of rows.jsonl and costs.jsonl.
    arms: things with a `name`.
    seeds: of worlds, data and training alike.
    of_seed: makes what the arms of a seed share; called once for each seed
      that has arms left.

  Raises:
    ValueError: two arms have one name.
    preemption.Preempted: asked to stop; finished arms are written.
  """
  names = [arm.name for arm in arms]
  if len(set(names)) < len(names):
    raise ValueError(f"{job}.arms have the names {names}; each must be its own")
  directory = pathlib.Path(output_dir)
  done = finished(directory)
  units = [(seed, arm) for seed in seeds for arm in arms]
  left = [unit for unit in units if (unit[0], unit[1].name) not in done]
  progress = metrics.Progress(job, len(units), done=len(done), unit="arms")
  opened, of_arm = None, None
  for number, (seed, arm) in enumerate(left):
    if preemption.requested():
      raise preemption.Preempted(f"{job}: stopped before {arm.name}, {seed}")
    if of_arm is None or opened != seed:
      opened, of_arm = seed, of_seed(seed)
    stages, costs = of_arm(arm)
    base = {"arm": arm.name, "seed": seed}
    rows = [
      {**base, "stage": stage, **row}
      for stage, found in stages.items()
      for row in found
    ]
    # Costs first: an arm is finished when its rows are there.
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
  """(seed, arm) of all rows that are there."""
  path = directory / "rows.jsonl"
  if not path.exists():
    return set()
  return {(row["seed"], row["arm"]) for row in jsonl.parse_rows(path, dict)}


def append(path: pathlib.Path, rows: Rows) -> None:
  """Adds rows to a file that is seen with all of them or with none."""
  if not rows:
    return
  before = path.read_text("utf-8") if path.exists() else ""
  text = "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows)
  jsonl.write_text(path, before + text)
