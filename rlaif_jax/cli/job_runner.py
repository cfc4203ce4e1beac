# SPDX-License-Identifier: Apache-2.0
"""Configures a job, runs it in its output directory and stores the result."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import time
import types
from typing import Mapping

from rlaif_jax.cli import command_line
from rlaif_jax.cli import compile_cache
from rlaif_jax.cli import resolution
from rlaif_jax.cli import gin_reader
from rlaif_jax.cli import gin_writer
from rlaif_jax.cli import imported_parts
from rlaif_jax.cli import job_table
from rlaif_jax.cli import next_command
from rlaif_jax.cli import run_folder
from rlaif_jax.core import job_spec
from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.engine import preemption

# Bad rows of input files, in the output directory.
QUARANTINE = "quarantine_input.jsonl"


def run(command: command_line.Command) -> None:
  """Runs a job, or reports the result of a finished one.

  Raises:
    ValueError: if the command, a gin file or the configuration is wrong, or
      the output directory cannot be used: it belongs to another
      configuration, another process runs there, or its inputs have changed.
  """
  if not command.job:
    raise command_line.UsageError(
      "--job is missing; the jobs are " + ", ".join(job_table.JOBS)
    )
  if not command.output_dir and not command.dry_run:
    raise command_line.UsageError(
      "--output_dir is missing; it is the folder where the job writes"
    )
  job = job_table.load(command.job)
  spec = job_table.spec_of(job)
  command = command_line.bind_parameters(command, job)
  parts = imported_parts.ImportedParts(is_allowed=not command.safe_gin)
  jobs = job_table.load_all()
  bindings = parts.with_full_names(
    gin_reader.read_command(command, parts), jobs
  )
  arguments = resolution.resolve(command.job, bindings, jobs, parts)
  config = gin_writer.render(command.job, job, arguments, parts)
  if command.dry_run:
    print(config, end="")
    module = sys.modules[job.__module__]
    if hasattr(module, "dry_run"):
      print(module.dry_run(**arguments))
    return
  with contextlib.ExitStack() as stack:
    processes = _start_processes(command.job, spec)
    if processes is not None:
      stack.push(processes.exit_on_failure)
    folder = run_folder.RunFolder(
      command.output_dir, spec, accept_changes=command.accept_changes
    )
    folder.open(stack, config, arguments, processes)
    if folder.is_finished:
      result = json.loads(folder.result.read_text("utf-8"))
      print(f"{command.job}: already done, see {folder.result}")
    else:
      begin = time.monotonic()
      parts.note_files()
      result, bad = _run_job(command, job, arguments)
      advice = result.get("next", "")
      result["next"] = next_command.suggest(
        command, bindings, jobs, advice, parts
      )
      result |= {
        "job": command.job,
        "seconds": round(time.monotonic() - begin, 1),
      }
      if processes is None or processes.is_writer():
        result |= bad.describe(folder.result.with_name(QUARANTINE))
        text = json.dumps(
          jsonl.finite(result),
          indent=2,
          sort_keys=True,
          default=str,
          allow_nan=False,
        )
        jsonl.write_text(folder.result, text + "\n")
        print(text)
    if result["next"]:
      print(f"next: {result['next']}")


def _run_job(
  command: command_line.Command,
  job: job_table.Run,
  arguments: Mapping[str, object],
) -> tuple[records.Row, jsonl.Quarantine]:
  """Runs the job; returns its result and the bad rows of its input files."""
  preemption.install()
  if cache := os.environ.get(compile_cache.JAX):
    print(f"compiled programs are cached in {cache}")
  with jsonl.quarantining_input() as bad:
    return dict(job(output_dir=command.output_dir, **arguments)), bad


def _start_processes(
  job: str, spec: job_spec.JobSpec
) -> types.ModuleType | None:
  """Returns the module `engine.processes` for a multihost job, started.

  Other jobs import JAX only if they need it.

  Raises:
    ValueError: if the environment describes several processes and the job is
      not multihost.
  """
  if spec.multihost:
    processes = importlib.import_module("rlaif_jax.engine.processes")
    processes.start()
    return processes
  if int(os.environ.get("JAX_NUM_PROCESSES") or 1) > 1 or (
    int(os.environ.get("SLURM_NTASKS") or 1) > 1
    and "SLURM_STEP_NODELIST" in os.environ
  ):
    raise ValueError(
      f"{job} runs in one process, and the environment describes several; "
      "start it without srun and unset JAX_NUM_PROCESSES"
    )
  return None
