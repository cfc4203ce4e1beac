# SPDX-License-Identifier: Apache-2.0
"""results.json of the job `evaluate` -> report.html."""

from __future__ import annotations

import os

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.evaluation import figures
from rlaif_jax.evaluation import pages

Results = records.Row
# Names of the parts of the gold rewards -> heads of their columns.
PARTS = {
  "coverage": "Coverage",
  "faithfulness": "Faithfulness",
  "brevity": "Brevity",
  "no_repetition": "No repetition",
  "form": "Form",
  "similarity": "Similarity",
  "chrf": "chrF",
  "rules": "Rules",
}


def conclusion(comparison: records.Row) -> str:
  """Returns the conclusion from the intervals, at equal length first."""
  raw = comparison["win_rate"]
  controlled = comparison["log_length_controlled"]
  if controlled["low"] > 0.5:
    return "better"
  if controlled["high"] < 0.5:
    return "worse"
  if raw["low"] > 0.5:
    return "better; not shown at equal length"
  if raw["high"] < 0.5:
    return "worse; not shown at equal length"
  return "no difference shown"


def oriented(results: Results) -> list[records.Row]:
  """Returns the comparisons with the baseline as the second policy."""
  baseline = results["baseline"]
  return [
    swap(c) if c["a"] == baseline else dict(c) for c in results["comparisons"]
  ]


def swap(comparison: records.Row) -> records.Row:
  """Returns B against A, from A against B."""
  return {
    **comparison,
    "a": comparison["b"],
    "b": comparison["a"],
    "win_rate": pages.mirror(comparison["win_rate"]),
    # Approximate: the regression on the plain ratio has no exact mirror image.
    "length_controlled": pages.mirror(comparison["length_controlled"]),
    "log_length_controlled": pages.mirror(comparison["log_length_controlled"]),
    "length_ratio": 1 / comparison["length_ratio"],
  }


def headline(results: Results) -> str:
  """Returns the policies that beat the baseline, at equal length first.

  The human line, and words copied from the document, are no policies.
  """
  baseline = results["baseline"]
  against = [
    c
    for c in oriented(results)
    if c["b"] == baseline and c["a"] not in results["references"]
  ]

  def shown(key):
    return {
      c["a"]: "{:.1f} % [{:.1f}, {:.1f}]".format(
        *(100 * c[key][part] for part in ("value", "low", "high"))
      )
      for c in against
      if c[key]["low"] > 0.5
    }

  equal, raw = shown("log_length_controlled"), shown("win_rate")
  only_raw = [f"{name} ({raw[name]})" for name in raw if name not in equal]
  if not equal:
    text = f"No policy is shown to beat {baseline} under gold at equal length."
  else:
    found = ", ".join(f"{name} wins {rate}" for name, rate in equal.items())
    text = f"Against {baseline} under gold at equal length: {found}."
  if only_raw:
    text += f" In raw win rate alone: {', '.join(only_raw)}."
  return text


def render(results: Results) -> str:
  """Returns the whole page."""
  keys = ("policies", "labelers", "rewards", "curves", "examples", "runs")
  rows = results["policies"].values()
  return pages.render(
    "evaluation.html",
    title=results["title"],
    headline=headline(results),
    comparisons=[{**c, "conclusion": conclusion(c)} for c in oriented(results)],
    gold_parts={
      name: title
      for name, title in PARTS.items()
      if any(name in row for row in rows)
    },
    facts=results["facts"],
    figures={
      "reward_against_kl": figures.reward_against_kl(results["curves"]),
      "training": figures.training(results["curves"]),
      "accuracy": figures.accuracy_against_labels(results["rewards"]),
      "lengths": figures.lengths(results["lengths"]),
    },
    **{key: results[key] for key in keys},
  )


def write_report(results: Results, path: str | os.PathLike) -> None:
  """Writes the page; it needs no network and no other file."""
  jsonl.write_text(path, render(results))
