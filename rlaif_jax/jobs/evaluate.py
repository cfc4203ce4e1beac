# SPDX-License-Identifier: Apache-2.0
"""Compares policies by a known gold reward: results.json and report.html.

Gold is the judge, never the labeler. All numbers come from files of finished
runs.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Mapping

import numpy as np

from rlaif_jax.api import gold_rewards
from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.data import datasets
from rlaif_jax.evaluation import report
from rlaif_jax.evaluation import run_files
from rlaif_jax.evaluation import win_rate


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationRuns:
  """Runs to evaluate, by the names of the report.

  Attributes:
    responses: policy -> its `sample` run in runs_dir. All runs answer the same
      contexts with one sample each.
    labels: labeler -> its `label` run, with human_labels_file set.
    rewards: reward model -> its `train_reward` run.
    policies: policy -> its `train_policy` run, for the training curves.
  """

  responses: Mapping[str, str]
  labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
  rewards: Mapping[str, str] = dataclasses.field(default_factory=dict)
  policies: Mapping[str, str] = dataclasses.field(default_factory=dict)


def run(
  *,
  output_dir: str,
  runs_dir: str,
  runs: EvaluationRuns,
  examples: datasets.ExampleSource = datasets.ExampleSource(
    task="docstring_summary", split="test"
  ),
  baseline: str = "SFT",
  num_examples: int = 12,
  title: str = "RLAIF, RLHF and d-RLAIF",
  gold_reward: gold_rewards.GoldSource = None,
  lead_words: int = 0,
) -> records.Row:
  """Writes results.json and report.html.

  Args:
    output_dir: directory of both files.
    runs_dir: directory of the runs of all jobs.
    runs: names and runs.
    examples: contexts with human responses.
    baseline: policy that others are compared with first.
    num_examples: rows of the table of example responses.
    title: of the report.
    gold_reward: gold of the responses; None: the program `evaluation.gold`.
    lead_words: also compares this number of the first words of each context,
      which is what a policy gets for copying; 0: does not.
  """
  # 1. Responses of the policies and of humans to the same contexts.
  root = pathlib.Path(runs_dir)
  sampled = run_files.responses(root, runs.responses)
  common = set.intersection(*map(set, sampled.values())) if sampled else set()
  if baseline not in sampled or not common:
    raise ValueError(
      f"evaluate: baseline is {baseline!r} and runs.responses has "
      f"{sorted(sampled)} with {len(common)} common contexts; the baseline "
      "must be one of them, and all must answer the same contexts"
    )
  rows = examples.read()
  contexts = {e.id: e.context for e in rows}
  order = [name for name in sorted(common) if name in contexts]
  texts = {
    name: [by_id[i].text for i in order] for name, by_id in sampled.items()
  }
  human = {e.id: e.response for e in rows}
  texts["human"] = [human[i] for i in order]
  if lead_words:
    texts[f"first {lead_words} words"] = [
      " ".join(contexts[i].split()[:lead_words]) for i in order
    ]
  # 2. Gold of each response.
  reward = gold_rewards.load(gold_reward)
  documents = [contexts[i] for i in order]
  scores = {name: reward(documents, own) for name, own in texts.items()}
  totals = {name: own.total for name, own in scores.items()}
  lengths = {n: np.asarray([len(t) for t in own]) for n, own in texts.items()}
  # 3. Win rates, and what the other runs measured.
  results = {
    "title": title,
    "baseline": baseline,
    "references": [name for name in texts if name not in sampled],
    "policies": {
      name: run_files.policy_numbers(
        scores[name],
        lengths[name],
        [sampled[name][i] for i in order] if name in sampled else None,
      )
      for name in texts
    },
    "comparisons": [
      dataclasses.asdict(c) for c in win_rate.matrix(totals, lengths)
    ],
    "labelers": run_files.labelers(root, runs.labels),
    "rewards": run_files.reward_models(root, runs.rewards),
    "curves": {
      name: run_files.curves(root / run, reward)
      for name, run in runs.policies.items()
    },
    "lengths": {name: v.tolist() for name, v in lengths.items()},
    "examples": [
      {
        "context": contexts[i],
        "texts": {name: own[k] for name, own in texts.items()},
        "gold": {name: float(totals[name][k]) for name in texts},
      }
      for k, i in enumerate(order[:num_examples])
    ],
    "runs": run_files.timings(root),
    "facts": run_files.environment(),
  }
  # 4. The files.
  directory = pathlib.Path(output_dir)
  jsonl.write_text(
    directory / "results.json",
    json.dumps(jsonl.finite(results), indent=1, sort_keys=True) + "\n",
  )
  report.write_report(results, directory / "report.html")
  return {
    "report": str((directory / "report.html").absolute()),
    "win_rates": {
      f"{c['a']} against {c['b']}": c["win_rate"]
      for c in results["comparisons"]
    },
  }
