# SPDX-License-Identifier: Apache-2.0
"""Evaluates judges against human labels: labelers x prompts x tasks.

Reproduces the tables of prompts (table 2), labeler sizes (table 3) and position
bias (table 4) of Lee et al., arXiv 2309.00267, with other models and labels,
and the scores of judge benchmarks by subset and section. All judges share one
label store: a killed run resumes, and a larger grid pays only for new labels.
"""

from __future__ import annotations

import functools
import pathlib
from typing import Mapping

from rlaif_jax.api import judge_cells
from rlaif_jax.api import jury as jury_lib
from rlaif_jax.api import labelers as labelers_lib
from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.data import benchmarks
from rlaif_jax.evaluation import judge_report
from rlaif_jax.labeling import judge_grid


def run(
  *,
  output_dir: str,
  tasks: Mapping[str, str],
  labelers: Mapping[str, str],
  grid: judge_grid.JudgeGridConfig,
  labeler: labelers_lib.LabelerConfig = labelers_lib.NO_LABELER,
  benchmark: benchmarks.BenchmarkConfig = benchmarks.AUTO,
  jury: tuple[str, ...] = (),
  limit: int = 0,
  chunk_size: int = 32,
) -> records.Row:
  """Writes cells.jsonl, subsets.jsonl, eval_judge.html and all labels.

  Args:
    output_dir: output directory; a second run resumes there.
    tasks: name -> human preferences (labels.jsonl) or a judge benchmark, as
      .jsonl, .jsonl.gz or .parquet. The name is inserted into the names of
      templates; the rows are grouped by subset.
    labelers: name -> directory of a finished language model, smallest first.
    grid: judges to evaluate.
    labeler: mesh and prices of the labelers. Its endpoint, if set, is another
      labeler, named by its model.
    benchmark: format and subsets of the tasks.
    jury: labelers whose mean soft label is evaluated too; ("all",) takes all.
    limit: number of items of each task; 0 takes all.
    chunk_size: number of pairs that are stored at a time.
  """
  directory = pathlib.Path(output_dir)
  quarantine = jsonl.Quarantine()
  configs = labelers_lib.by_name(labelers, labeler)
  panel = jury_lib.Jury(jury, configs)
  if panel.members and grid.only_best_on_rest:
    raise ValueError(
      f"jury is {jury} and JudgeGridConfig.only_best_on_rest is set, so its "
      "members may label different pairs; unset one of them"
    )
  read = {
    task: benchmarks.read(path, benchmark, jsonl.of_run()).first(limit)
    for task, path in tasks.items()
  }
  rows, subsets = [], []

  def add(shared: records.Row, cell: judge_cells.Cell) -> None:
    row, parts = cell.measure(read[shared["task"]], grid.select_share)
    rows.append({**shared, **row})
    subsets.extend({**shared, **part} for part in parts)

  for name, config in configs.items():
    loaded = labelers_lib.load_labeler(
      config, journal_file=f"{output_dir}/journal.jsonl"
    )
    model = loaded.backend.name
    for task, found in read.items():
      label = functools.partial(
        judge_cells.label_pairs,
        prefix=f"{model}/{task}",
        labeler=loaded,
        store=labelers_lib.StoreConfig(
          store_dir=f"{output_dir}/store", chunk_size=chunk_size
        ),
        quarantine=quarantine,
      )
      for key, cell in judge_cells.label_grid(grid, task, found, label).items():
        add({"labeler": name, "model": model, "task": task, "cell": key}, cell)
        panel.add(name, (task, key), cell)
    del loaded
  for task, key in panel.keys:
    add(
      {"labeler": jury_lib.NAME, "model": ", ".join(panel.members)}
      | {"task": task, "cell": key},
      panel.cell((task, key), read[task].pairs),
    )
  jsonl.write_rows(directory / "cells.jsonl", rows)
  jsonl.write_rows(directory / "subsets.jsonl", subsets)
  judge_report.write_report(rows, directory / "eval_judge.html", subsets)
  return {
    "report": f"{output_dir}/eval_judge.html",
    "cells": len(rows),
    "subsets": len(subsets),
    "best": judge_report.best(rows),
    "overall": [
      {k: row[k] for k in ("labeler", "task", "cell", "overall")}
      for row in rows
      if row["overall"] is not None
    ],
    "quarantined": quarantine.write(directory / "quarantine.jsonl"),
    "quarantine_reasons": quarantine.counts(),
  }
