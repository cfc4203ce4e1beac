# SPDX-License-Identifier: Apache-2.0
"""The table of jobs. A job is a module with `run(*, output_dir, ...)`."""

from __future__ import annotations

import importlib
import sys
from typing import Callable

from rlaif_jax.cli import command_line
from rlaif_jax.cli import configuration
from rlaif_jax.core import job_spec
from rlaif_jax.core import records

Run = Callable[..., records.Row]

# Up to `evaluate` in the paper's order, each followed by the next; then others.
JOBS = {
  "convert": "rlaif_jax.jobs.convert_checkpoint",
  "prepare": "rlaif_jax.jobs.prepare_data",
  "train_sft": "rlaif_jax.jobs.train_sft",
  "sample": "rlaif_jax.jobs.sample_responses",
  "label": "rlaif_jax.jobs.label_pairs",
  "train_reward": "rlaif_jax.jobs.train_reward",
  "train_policy": "rlaif_jax.jobs.train_policy",
  "evaluate": "rlaif_jax.jobs.evaluate",
  "train_dpo": "rlaif_jax.jobs.train_dpo",
  "train_online_dpo": "rlaif_jax.jobs.train_online_dpo",
  "weight_pairs": "rlaif_jax.jobs.weight_pairs",
  "train_ensemble": "rlaif_jax.jobs.train_ensemble",
  "rate": "rlaif_jax.jobs.rate_responses",
  "compare": "rlaif_jax.jobs.compare_policies",
  "score": "rlaif_jax.jobs.score_responses",
  "corrupt_pairs": "rlaif_jax.jobs.corrupt_pairs",
  "write_rubrics": "rlaif_jax.jobs.write_rubrics",
  "write_judge_data": "rlaif_jax.jobs.write_judge_data",
  "write_principle_data": "rlaif_jax.jobs.write_principle_data",
  "eval_judge": "rlaif_jax.jobs.eval_judge",
  "report": "rlaif_jax.jobs.report_runs",
  "plan": "rlaif_jax.jobs.plan_run",
  "perplexity": "rlaif_jax.jobs.measure_perplexity",
  "toy_world": "rlaif_jax.jobs.toy_world",
}


def load(job: str) -> Run:
  """Imports a job's module and returns its `run`.

  Raises:
    UsageError: if no job has this name.
  """
  if job not in JOBS:
    raise command_line.UsageError(
      f"--job is {job!r}{configuration.nearest(job, JOBS)}; the jobs are "
      f"{', '.join(JOBS)}"
    )
  return importlib.import_module(JOBS[job]).run


def load_all() -> dict[str, Run]:
  """Imports every job, since a gin file may configure several."""
  return {job: load(job) for job in JOBS}


def spec_of(run: Run) -> job_spec.JobSpec:
  """Returns the `JOB` of the module that defines `run`, or the defaults."""
  module = sys.modules[run.__module__]
  return getattr(module, "JOB", job_spec.JobSpec())
