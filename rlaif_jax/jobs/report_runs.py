# SPDX-License-Identifier: Apache-2.0
"""Writes one page of all results in a folder of runs.

Reads the result files of `label`, `eval_judge`, `train_reward`, `train_policy`,
`compare`, `score` and `toy_world`, and computes no new results. `evaluate`
compares policies by a known gold reward.
"""

from __future__ import annotations

import pathlib

from rlaif_jax.core import job_spec
from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.evaluation import run_files
from rlaif_jax.evaluation import runs_report
from rlaif_jax.experiments import toy_report

# The folder changes between two starts.
JOB = job_spec.JobSpec(always_rerun=True)


def run(
  *,
  output_dir: str,
  runs_dir: str,
  title: str = "Runs",
) -> records.Row:
  """Writes report.html, and tables.md if there are toy worlds.

  Args:
    output_dir: directory of the files.
    runs_dir: folder of the runs, each in a folder of its own. Toy worlds may
      be unfinished.
    title: of the page.
  """
  root, directory = pathlib.Path(runs_dir), pathlib.Path(output_dir)
  runs = run_files.finished(root)
  toys = toy_report.read(root)
  if not runs and not toys:
    raise ValueError(
      f"report: no folder in {runs_dir} has a result.json or the rows.jsonl of "
      "a toy world; name the folder that has the output_dirs of finished jobs"
    )
  page = runs_report.render(title, root, runs, toys)
  jsonl.write_text(directory / "report.html", page)
  files = {"report": str((directory / "report.html").absolute())}
  if toys:
    jsonl.write_text(directory / "tables.md", toy_report.markdown(toys))
    files["tables"] = str((directory / "tables.md").absolute())
  return {**files, "runs": {job: sorted(names) for job, names in runs.items()}}
