# SPDX-License-Identifier: Apache-2.0
"""Evaluates judges against human labels: labelers x prompts x tasks.

Reproduces the tables of prompts (table 2), labeler sizes (table 3) and position
bias (table 4) of Lee et al., arXiv 2309.00267, with other models and labels.
All judges share one label store: a killed run resumes, and a larger grid pays
only for new labels.
"""

from __future__ import annotations

import functools
import pathlib
import time
from typing import Callable, Mapping, Sequence

from rlaif_jax.api import labelers as labelers_lib
from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.evaluation import judge_report
from rlaif_jax.evaluation import judge_alignment
from rlaif_jax.labeling import judge_grid
from rlaif_jax.labeling import judges


def run(
  *,
  output_dir: str,
  tasks: Mapping[str, str],
  labelers: Mapping[str, str],
  grid: judge_grid.JudgeGridConfig,
  labeler: labelers_lib.LabelerConfig = labelers_lib.NO_LABELER,
  limit: int = 0,
  chunk_size: int = 32,
) -> records.Row:
  """Writes cells.jsonl, eval_judge.html and the labels of every judge.

  Args:
    output_dir: output directory; a second run resumes there.
    tasks: name -> labels.jsonl of human preferences. The name is inserted into
      the names of templates; the rows are grouped by `source`.
    labelers: name -> directory of a finished language model, smallest first.
    grid: judges to evaluate.
    labeler: mesh and prices of the labelers. Its endpoint, if set, is another
      labeler, named by its model.
    limit: number of pairs of each task; 0 takes all.
    chunk_size: number of pairs that are stored at a time.
  """
  directory = pathlib.Path(output_dir)
  quarantine = jsonl.Quarantine()
  configs = labelers_lib.by_name(labelers, labeler)
  store = labelers_lib.StoreConfig(
    store_dir=f"{output_dir}/store", chunk_size=chunk_size
  )
  rows = []
  for name, config in configs.items():
    loaded = labelers_lib.load_labeler(
      config, journal_file=f"{output_dir}/journal.jsonl"
    )
    for task, path in tasks.items():
      humans = jsonl.read_records(records.Preference, path, jsonl.of_run())
      humans = humans[: limit or None]
      label = functools.partial(
        _label,
        prefix=f"{loaded.backend.name}/{task}",
        labeler=loaded,
        store=store,
        quarantine=quarantine,
      )
      cells = _evaluate(grid, task, humans, label)
      shared = {"labeler": name, "model": loaded.backend.name, "task": task}
      rows += [{**shared, "cell": cell, **row} for cell, row in cells.items()]
    del loaded
  jsonl.write_rows(directory / "cells.jsonl", rows)
  judge_report.write_report(rows, directory / "eval_judge.html")
  return {
    "report": f"{output_dir}/eval_judge.html",
    "cells": len(rows),
    "best": judge_report.best(rows),
    "quarantined": quarantine.write(directory / "quarantine.jsonl"),
    "quarantine_reasons": quarantine.counts(),
  }


def _evaluate(
  grid: judge_grid.JudgeGridConfig,
  task: str,
  humans: Sequence[records.Preference],
  label: Callable[..., tuple[list[records.Preference], records.Row]],
) -> dict[str, records.Row]:
  """Returns alignment, speed and cost of each judge; see `_label`."""
  judge_of = dict(grid.judges(task))

  def evaluate(cell, pairs):
    labels, row = label(cell, judge_of[cell], pairs)
    row |= judge_alignment.measure(labels, humans, grid.select_share)
    return row

  if not grid.only_best_on_rest:
    return {cell: evaluate(cell, humans) for cell in judge_of}
  selection, _ = judge_alignment.split_pairs(humans, grid.select_share)
  rows = {cell: evaluate(cell, selection) for cell in judge_of}
  answered = [cell for cell in rows if rows[cell]["selection"]]
  if answered:
    best = max(answered, key=lambda cell: judge_report.selected(rows[cell]))
    rows[best] = evaluate(best, humans)
  return rows


def _label(
  name: str,
  judge: judges.Judge,
  humans: Sequence[records.Preference],
  *,
  prefix: str,
  labeler: labelers_lib.Labeler,
  store: labelers_lib.StoreConfig,
  quarantine: jsonl.Quarantine,
) -> tuple[list[records.Preference], records.Row]:
  """Labels the pairs of `humans`; returns the labels, and speed and cost."""
  begin = time.monotonic()
  pairs = [records.pair_of_row(records.to_row(human)) for human in humans]
  stored = labelers_lib.label_pairs(
    lambda: iter(pairs),
    labeler,
    judge,
    store,
    store_dir=store.store_dir,
    quarantine=quarantine,
  )
  labels = list(stored.labels(pairs))
  seconds = judge_alignment.seconds_per_label(
    pathlib.Path(store.store_dir).with_name("seconds.jsonl"),
    f"{prefix}/{name}",
    time.monotonic() - begin,
    stored.requested,
  )
  stored.close()
  return labels, {
    "seconds_per_label": seconds,
    "cost_usd": labeler.prices.cost_usd(stored.usage),
    "usage": records.to_row(stored.usage),
  }
