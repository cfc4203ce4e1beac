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
  """Returns the conclusion from the intervals, also at equal length."""
  raw = comparison["win_rate"]
  controlled = comparison["log_length_controlled"]
  if raw["low"] > 0.5:
    shown = controlled["low"] > 0.5
    return "better" if shown else "better; not shown at equal length"
  if raw["high"] < 0.5:
    shown = controlled["high"] < 0.5
    return "worse" if shown else "worse; not shown at equal length"
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
  """Returns one sentence on the policies that beat the baseline."""
  against = [
    c
    for c in oriented(results)
    if c["b"] == results["baseline"] and c["a"] != "human"
  ]
  better = [c["a"] for c in against if c["win_rate"]["low"] > 0.5]
  still = [
    c["a"]
    for c in against
    if c["a"] in better and c["log_length_controlled"]["low"] > 0.5
  ]
  baseline = results["baseline"]
  if not better:
    return f"No policy is shown to be better than {baseline} under gold."
  text = f"Better than {baseline} under gold: {', '.join(better)}. "
  if set(still) == set(better):
    return text + "At equal length the same holds."
  if not still:
    return text + "At equal length none of them is shown to be better."
  return text + f"At equal length only {', '.join(still)}."


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
