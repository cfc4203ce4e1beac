# SPDX-License-Identifier: Apache-2.0
"""One page of all that lies in a folder of runs: no gold, no configuration.

Finds the runs of `label`, `audit`, `train_reward`, `train_policy`, `compare`
and `score` by their result.json and fills the paper's tables and figures with
the user's numbers. Computes nothing anew; `evaluate` is for the worlds with a
known gold reward.
"""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from typing import Any

import numpy as np

from rlaif_jax.core import job_spec
from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.evaluation import audit_report
from rlaif_jax.evaluation import compare_report
from rlaif_jax.evaluation import figures
from rlaif_jax.evaluation import pages
from rlaif_jax.evaluation import report
from rlaif_jax.evaluation import win_rate
from rlaif_jax.jobs import evaluate

JOB = job_spec.JobSpec(always_rerun=True)


def run(
  *,
  output_dir: str,
  runs_dir: str,
  title: str = "Runs",
) -> dict[str, Any]:
  """Writes report.html.

  Args:
    output_dir: where it goes.
    runs_dir: folder of the runs, each in a folder of its own.
    title: of the page.
  """
  root = pathlib.Path(runs_dir)
  found: dict[str, dict[str, dict[str, Any]]] = {}
  for path in sorted(root.glob("*/result.json")):
    summary = json.loads(path.read_text("utf-8"))
    found.setdefault(summary.get("job", ""), {})[path.parent.name] = summary
  if not found:
    raise ValueError(
      f"report: no folder in {runs_dir} holds a result.json; name the folder "
      "that holds the output_dirs of finished jobs"
    )
  body = [f"<h1>{pages.escape(title)}</h1>", *sections(root, found)]
  path = pathlib.Path(output_dir) / "report.html"
  jsonl.write_text(path, pages.page(title, body))
  return {
    "report": str(path.absolute()),
    "runs": {job: sorted(names) for job, names in found.items()},
  }


def sections(
  root: pathlib.Path, found: dict[str, dict[str, dict[str, Any]]]
) -> list[str]:
  """The parts of the page for which there are runs."""
  parts = []
  labels = {
    name: summary
    for name, summary in found.get("label", {}).items()
    if "alignment" in summary and "position_bias" in summary
  }
  if labels:
    table = report.labelers_table({"labelers": labels})
    parts.append(pages.section("AI labels", table))
  for name in found.get("eval_judge", {}):
    rows = jsonl.parse_rows(root / name / "cells.jsonl", dict)
    parts.append(f"<h2>{pages.escape(audit_report.TITLE)} ({_name(name)})</h2>")
    parts += audit_report.sections(rows)
  rewards = {n: n for n in found.get("train_reward", {})}
  if rewards:
    results = {"rewards": evaluate.read_rewards(root, rewards)}
    drawing = figures.accuracy_against_labels(results["rewards"])
    caption = "Accuracy on held-out human labels; bars are 95 % intervals."
    parts.append(
      pages.section(
        "Reward models",
        report.rewards_table(results),
        pages.figure(drawing, caption),
      )
    )
  policies = {
    name: evaluate.read_training(root / name)
    for name in found.get("train_policy", {})
  }
  if policies:
    drawing = figures.training(policies)
    caption = "Reward, KL and length of the rollouts during training."
    parts.append(
      pages.section(
        "Reinforcement learning",
        pages.figure(drawing, caption),
        report.selection_table({"curves": policies}),
      )
    )
  for name in found.get("compare", {}):
    results = json.loads((root / name / "results.json").read_text("utf-8"))
    parts.append(f"<h2>{pages.escape(results['title'])} ({_name(name)})</h2>")
    parts += compare_report.sections(results)
  if "score" in found:
    parts.append(
      pages.section(
        "Scores of responses",
        _scores(found["score"]),
        _harmless(root, found["score"]),
      )
    )
  runs = {"runs": evaluate.read_runs(root), "facts": evaluate.facts()}
  return [*parts, pages.section("How it was made", report.runs_table(runs))]


def _name(run_name: str) -> str:
  return f"<small>{pages.escape(run_name)}</small>"


def _scores(summaries: dict[str, dict[str, Any]]) -> str:
  rows = [
    [
      pages.escape(name),
      pages.escape(summary["labeler"]),
      pages.number(summary["score"], 2),
      pages.percent(summary["share_above_half"])
      if "share_above_half" in summary
      else "-",
      pages.number(summary["characters"], 1),
      str(summary["quarantined"]),
    ]
    for name, summary in summaries.items()
  ]
  head = (
    "Run",
    "Labeler",
    "Mean score",
    "Harmless, or better than the reference",
    "Characters",
    "Set aside",
  )
  return pages.table(head, rows)


def _harmless(root: pathlib.Path, summaries: dict[str, dict[str, Any]]) -> str:
  """Yes-or-no runs side by side, plain and at one length for all."""
  verdicts, lengths = {}, {}
  for name, summary in summaries.items():
    if summary["kind"] != "yesno":
      continue
    rows = jsonl.read_records(records.Rating, root / name / "ratings.jsonl")
    missing = [math.nan] * (summary["responses"] - len(rows))
    good = [float(row.score > 0.5) for row in rows]
    verdicts[name] = np.asarray([*good, *missing])
    lengths[name] = np.asarray([len(row.response) for row in rows] + missing)
  if not verdicts:
    return ""
  rates = win_rate.harmless_rates(verdicts, lengths)
  body = [
    [
      pages.escape(rate.policy),
      pages.percent(dataclasses.asdict(rate.rate)),
      pages.percent(dataclasses.asdict(rate.length_controlled)),
      str(rate.unanswered),
    ]
    for rate in rates
  ]
  head = ("Run", "Harmless", "At one length for all", "Unanswered")
  return pages.table(head, body) + pages.note(
    "A response is harmless where its probability of it is above a half. At "
    "one length: logistic regression on the logarithm of the length, read at "
    f"{rates[0].reference:.0f} characters."
  )
