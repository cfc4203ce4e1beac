# SPDX-License-Identifier: Apache-2.0
"""Measures win rates of policies by a pairwise judge, or by people's rankings.

For texts without a known gold reward. A response wins only if the judge prefers
it in both presentation orders; otherwise the pair is a tie (as in the sister
paper, arXiv 2403.10704). The judge should not be the labeler that a policy was
trained with. Rankings come from the `rate` job.
"""

from __future__ import annotations

import json
import pathlib
from typing import Mapping

from rlaif_jax.api import labelers
from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.evaluation import compare_report
from rlaif_jax.evaluation import policy_comparison
from rlaif_jax.evaluation import rankings
from rlaif_jax.evaluation import run_files
from rlaif_jax.labeling import pairwise_judge


def run(
  *,
  output_dir: str,
  runs_dir: str = "",
  responses: Mapping[str, str] | None = None,
  judge: pairwise_judge.PairwiseJudgeConfig | None = None,
  labeler: labelers.LabelerConfig = labelers.NO_LABELER,
  rankings_files: tuple[str, ...] = (),
  limit: int = 0,
  chunk_size: int = 256,
  title: str = "Policies side by side",
) -> records.Row:
  """Writes results.json and compare.html.

  Args:
    output_dir: output directory; a second run resumes there.
    runs_dir: directory that contains the runs.
    responses: policy -> its `sample` run in runs_dir. All policies answer the
      same contexts, with one sample each.
    judge: settings of the judge, with both orders; needs `labeler`.
    labeler: language model that judges.
    rankings_files: rankings.jsonl of the `rate` job, from one or more raters.
    limit: number of contexts to compare; 0 compares all.
    chunk_size: number of pairs that are stored at a time.
    title: title of the page.
  """
  _check(responses, judge, labeler, rankings_files)
  directory = pathlib.Path(output_dir)
  quarantine = jsonl.Quarantine()
  results: records.Row = {"title": title, "judged": None, "ranked": None}
  if judge is not None:
    loaded = labelers.load_labeler(
      labeler, journal_file=f"{output_dir}/journal.jsonl"
    )
    sampled = run_files.responses(pathlib.Path(runs_dir), responses)
    pairs = policy_comparison.pair_responses(sampled, limit=limit)
    stored = labelers.label_pairs(
      lambda: (pair for rows in pairs.values() for pair in rows),
      loaded,
      judge,
      labelers.StoreConfig(chunk_size=chunk_size),
      store_dir=f"{output_dir}/store",
      quarantine=quarantine,
    )
    results["judged"] = {
      "judge": judge.provenance(loaded.backend.name),
      **policy_comparison.compare_by_judge(pairs, stored.labels),
      **labelers.describe_usage(stored.usage, loaded.prices),
    }
  if rankings_files:
    results["ranked"] = policy_comparison.compare_by_rankings(
      [
        row
        for path in rankings_files
        for row in jsonl.read_records(rankings.Ranking, path, jsonl.of_run())
      ]
    )
  jsonl.write_text(
    directory / "results.json",
    json.dumps(jsonl.finite(results), indent=1, sort_keys=True) + "\n",
  )
  compare_report.write_report(results, directory / "compare.html")
  return {
    "report": str((directory / "compare.html").absolute()),
    "win_rates": {
      f"{kind}: {c['a']} against {c['b']}": c["win_rate"]
      for kind in ("judged", "ranked")
      for c in (results[kind] or {"comparisons": []})["comparisons"]
    },
    "quarantined": quarantine.write(directory / "quarantine.jsonl"),
  }


def _check(responses, judge, labeler, rankings_files) -> None:
  """Checks that there is a judge with its labeler, rankings, or both."""
  has_model = judge is not None or labeler != labelers.NO_LABELER
  if not has_model and not rankings_files:
    raise ValueError(
      "compare: judge and rankings_files are not set; set judge and labeler, "
      "or rankings_files"
    )
  if not has_model:
    return
  labelers.check(labeler, judge)
  if judge.orders != "both":
    raise ValueError(
      f"compare: PairwiseJudgeConfig.orders is {judge.orders!r}; a win must "
      "hold in both orders, so set it to 'both'"
    )
  if len(responses or ()) < 2:
    raise ValueError(
      f"compare: responses is {responses}; set two or more policies"
    )
