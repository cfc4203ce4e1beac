# SPDX-License-Identifier: Apache-2.0
"""One directory, one run: the same command continues, another is refused.

Also whether the run is one process or several.
"""

from __future__ import annotations

import difflib
import pathlib
from typing import Any, Mapping, Sequence

from rlaif_jax.core import jsonl


def claim(directory: pathlib.Path, config: str, job: str, module: Any) -> None:
  """Makes the directory this run's, or finds that it is already.

  Args:
    directory: where the run writes.
    config: all that it was given, as gin text.
    job: its name.
    module: the job's. MAY_CHANGE are parameters that change no result, such
      as a budget; a later start may give others.

  Raises:
    ValueError: it belongs to a run with another configuration, or it is an
      address such as gs://bucket/run.
  """
  if directory.parts[0].endswith(":"):
    raise ValueError(
      f"--output_dir is {directory}, an address; it should be a folder, and "
      "with several hosts one that all of them see: mount the storage, and "
      "name the place where it is mounted"
    )
  may_change = [f"{job}.{name}" for name in getattr(module, "MAY_CHANGE", ())]
  path = directory / "config.gin"
  if not path.exists():
    jsonl.write_text(path, config)
    return
  before = _lines(path.read_text("utf-8"), may_change)
  now = _lines(config, may_change)
  if before != now:
    difference = [
      line
      for line in difflib.ndiff(before, now)
      if line[:2] in ("- ", "+ ") and line[2:].strip()
    ]
    raise ValueError(
      f"{directory} holds a run with another configuration (-: there, +: "
      "now):\n  " + "\n  ".join(difference) + "\nUse another --output_dir, or "
      "delete that one."
    )


def are_several(environment: Mapping[str, str], job: str, module: Any) -> bool:
  """Whether the environment says that this process is one of several.

  By JAX's own names, by Slurm's, or by those of a Cloud TPU slice; which one
  it is, `engine.processes` finds out.

  Raises:
    ValueError: it does, and the job's module has no SEVERAL_PROCESSES.
  """
  names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
  several = (
    any(environment.get(name) for name in names)
    or (
      environment.get("SLURM_NTASKS", "1") != "1"
      and "SLURM_STEP_NODELIST" in environment
    )
    or "," in environment.get("TPU_WORKER_HOSTNAMES", "")
  )
  if several and not getattr(module, "SEVERAL_PROCESSES", False):
    raise ValueError(
      f"{job} runs in one process, and the environment names several; start it "
      "without srun, and without JAX_NUM_PROCESSES and its like"
    )
  return several


def _lines(config: str, leave_out: Sequence[str]) -> list[str]:
  begins = tuple(f"{name} = " for name in leave_out)
  return [line for line in config.splitlines() if not line.startswith(begins)]
