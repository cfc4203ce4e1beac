# SPDX-License-Identifier: Apache-2.0
"""A folder of finished runs -> one page of all their results."""

from __future__ import annotations

import pathlib
from typing import Mapping, Sequence

from rlaif_jax.core import jsonl
from rlaif_jax.core import parsing
from rlaif_jax.core import records
from rlaif_jax.evaluation import judge_report
from rlaif_jax.evaluation import figures
from rlaif_jax.evaluation import pages
from rlaif_jax.evaluation import run_files

Runs = Mapping[str, Mapping[str, run_files.Summary]]


def values(root: pathlib.Path, runs: Runs) -> records.Row:
  """Returns the values of the template, read from the files of the runs."""
  labels = {
    name: summary
    for name, summary in runs.get("label", {}).items()
    if "alignment" in summary and "position_bias" in summary
  }
  rewards = run_files.reward_models(
    root, {name: name for name in runs.get("train_reward", {})}
  )
  curves = {
    name: run_files.training(root / name)
    for name in runs.get("train_policy", {})
  }
  scores = runs.get("score", {})
  return {
    "labelers": labels,
    "judges": [
      {"run": name, "title": judge_report.TITLE, **_judges(root / name)}
      for name in runs.get("eval_judge", {})
    ],
    "rewards": rewards,
    "curves": curves,
    "compared": [
      {"run": name, **_results(root / name)} for name in runs.get("compare", {})
    ],
    "scores": scores,
    "harmless": run_files.harmless(root, scores),
    "runs": run_files.timings(root),
    "facts": run_files.environment(),
    "figures": {
      "accuracy": figures.accuracy_against_labels(rewards),
      "training": figures.training(curves),
    },
  }


def _judges(directory: pathlib.Path) -> records.Row:
  rows = jsonl.parse_rows(directory / "cells.jsonl", jsonl.row_of)
  path, subsets = directory / "subsets.jsonl", []
  if path.exists():
    subsets = jsonl.parse_rows(path, jsonl.row_of)
  return judge_report.values(
    run_files.with_nan(rows), run_files.with_nan(subsets)
  )


def _results(directory: pathlib.Path) -> records.Row:
  return run_files.read_results(directory / "results.json")


def render(
  title: str,
  root: pathlib.Path,
  runs: Runs,
  toys: Sequence[records.Row] = (),
) -> str:
  """Returns the page.

  Args:
    title: of the page.
    root: folder of the runs.
    runs: from `run_files.finished`.
    toys: name, tables and figures of each toy world.
  """

  def page(runs: Runs) -> str:
    found = values(root, runs)
    return pages.render("runs.html", title=title, toys=toys, **found)

  try:
    return page(runs)
  except ValueError:
    # One of the runs has another form: its own page fails too.
    for job, found in runs.items():
      for name, summary in found.items():
        with parsing.naming(root / name / "result.json"):
          page({job: {name: summary}})
    raise
