# SPDX-License-Identifier: Apache-2.0
"""Judges all policies by gold and writes results.json and report.html.

The evaluator is the gold reward, never the labeler. Everything in the report
comes from files that earlier jobs left.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import platform
from typing import Any, Mapping

import numpy as np

from rlaif_jax.api import candidates
from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.core import versions
from rlaif_jax.data import datasets
from rlaif_jax.evaluation import gold
from rlaif_jax.evaluation import report
from rlaif_jax.evaluation import win_rate
from rlaif_jax.ops import statistics
from rlaif_jax.text import prompts


def run(
  *,
  output_dir: str,
  runs_dir: str,
  responses: Mapping[str, str],
  labels: Mapping[str, str] | None = None,
  rewards: Mapping[str, str] | None = None,
  policies: Mapping[str, str] | None = None,
  baseline: str = "SFT",
  data_dir: str = "",
  task: str = "docstring_summary",
  split: str = "test",
  num_examples: int = 12,
  title: str = "RLAIF, RLHF and d-RLAIF",
) -> dict[str, Any]:
  """Writes results.json and report.html.

  Args:
    output_dir: where both go.
    runs_dir: directory that holds the runs of all jobs.
    responses: policy -> its `sample` run in runs_dir. All answer the same
      contexts, one sample each.
    labels: labeler -> its `label` run, with human_labels_file set.
    rewards: reward model -> its `train_reward` run.
    policies: policy -> its `train_policy` run, for the curves.
    baseline: the policy that others are compared with first.
    data_dir: of `prepare`; gives the human-written responses.
    task: whose contexts were answered.
    split: of the task.
    num_examples: rows of the table of example texts.
    title: of the report.
  """
  root = pathlib.Path(runs_dir)
  texts, rows = read_responses(root, responses)
  examples = datasets.ExampleSource(
    task=task, split=split, data_dir=data_dir
  ).read()
  human = {e.id: e.response for e in examples}
  order = sorted(set.intersection(*(set(t) for t in texts.values())))
  if baseline not in texts or not order:
    raise ValueError(
      f"evaluate: baseline is {baseline!r} and responses are of "
      f"{sorted(texts)}, with {len(order)} contexts in common; the baseline "
      "must be one of them and they must answer the same contexts"
    )
  contexts = {e.id: e.context for e in examples}
  texts["human"] = human
  order = [name for name in order if name in human]
  scores = {
    name: [gold.score(contexts[i], by_id[i]) for i in order]
    for name, by_id in texts.items()
  }
  totals = {n: np.asarray([s.total for s in v]) for n, v in scores.items()}
  lengths = {
    n: np.asarray([len(by_id[i]) for i in order]) for n, by_id in texts.items()
  }
  results = {
    "title": title,
    "baseline": baseline,
    "policies": {
      name: policy_row(scores[name], lengths[name], rows.get(name, {}), order)
      for name in texts
    },
    "comparisons": [
      dataclasses.asdict(c) for c in win_rate.matrix(totals, lengths)
    ],
    "labelers": read_labelers(root, labels or {}),
    "rewards": read_rewards(root, rewards or {}),
    "curves": {
      name: read_curves(root / run) for name, run in (policies or {}).items()
    },
    "lengths": {name: v.tolist() for name, v in lengths.items()},
    "examples": [
      {
        "context": contexts[i],
        "texts": {name: by_id[i] for name, by_id in texts.items()},
        "gold": {name: float(totals[name][k]) for name in texts},
      }
      for k, i in list(enumerate(order))[:num_examples]
    ],
    "runs": read_runs(root),
    "facts": facts(),
  }
  directory = pathlib.Path(output_dir)
  jsonl.write_text(
    directory / "results.json",
    json.dumps(results, indent=1, sort_keys=True) + "\n",
  )
  report.write_report(results, directory / "report.html")
  return {
    "report": str((directory / "report.html").absolute()),
    "win_rates": {
      f"{c['a']} against {c['b']}": c["win_rate"]
      for c in results["comparisons"]
    },
  }


def read_responses(root: pathlib.Path, runs: Mapping[str, str]):
  """name -> {id: text}, and name -> {id: Response}; end junk stripped.

  Raises:
    ValueError: a policy with more than one sample of a context.
  """
  texts, rows = {}, {}
  for name, run in runs.items():
    path = root / run / "responses.jsonl"
    responses = jsonl.read_records(records.Response, path)
    by_id = {r.id: r for r in responses}
    if len(by_id) != len(responses):
      raise ValueError(
        f"{path} has {len(responses)} responses to {len(by_id)} contexts; "
        "sample with num_samples = 1 for evaluation"
      )
    rows[name] = by_id
    texts[name] = {
      i: prompts.strip_trailing_symbols(r.text) for i, r in by_id.items()
    }
  return texts, rows


def policy_row(scores, lengths, responses, order) -> dict[str, Any]:
  """Gold, its parts, lengths and KL of one policy, each with interval."""
  row = {
    "gold": statistics.mean([s.total for s in scores]),
    "characters": statistics.mean(lengths),
  }
  for part in gold.PARTS:
    row[part] = statistics.mean([getattr(s, part) for s in scores])
  if responses:
    kept = [responses[i] for i in order]
    row["kl"] = statistics.mean([r.log_prob - r.ref_log_prob for r in kept])
    row["tokens"] = statistics.mean([r.tokens for r in kept])
  return {name: dataclasses.asdict(value) for name, value in row.items()}


def read_labelers(
  root: pathlib.Path, runs: Mapping[str, str]
) -> dict[str, Any]:
  """What the `label` jobs measured."""
  result = {}
  for name, run in runs.items():
    summary = json.loads((root / run / "result.json").read_text("utf-8"))
    if "alignment" not in summary:
      raise ValueError(
        f"{root / run} measured no alignment; run the label job with "
        "label.human_labels_file set"
      )
    keys = ("alignment", "position_bias", "answered", "quarantined", "usage")
    result[name] = {key: summary.get(key) for key in keys}
  return result


def read_rewards(
  root: pathlib.Path, runs: Mapping[str, str]
) -> dict[str, list[dict[str, Any]]]:
  """Accuracy against number of labels, with intervals."""
  result = {}
  for name, run in runs.items():
    rows = jsonl.parse_rows(root / run / "reward_accuracy.jsonl", dict)
    result[name] = [
      {
        "labels": row["labels"],
        "accuracy": dataclasses.asdict(
          statistics.wilson(row["correct"], row["n"])
        ),
      }
      for row in rows
    ]
  return result


def read_curves(directory: pathlib.Path) -> dict[str, Any]:
  """Validation and training curves of a policy run."""
  validation = []
  for step, rows in candidates.read_validation(directory).items():
    total = gold.totals(
      [row["context"] for row in rows], [row["text"] for row in rows]
    )
    validation.append(
      {
        "step": step,
        "gold": dataclasses.asdict(statistics.mean(total)),
        "score": dataclasses.asdict(
          statistics.mean([row["score"] for row in rows])
        ),
        "kl": dataclasses.asdict(
          statistics.mean([r["log_prob"] - r["ref_log_prob"] for r in rows])
        ),
      }
    )
  return {"validation": validation, **read_training(directory)}


def read_training(directory: pathlib.Path) -> dict[str, Any]:
  """Training curve and candidates of a policy run."""
  training = jsonl.parse_rows(directory / "metrics.jsonl", dict)
  summary = json.loads((directory / "result.json").read_text("utf-8"))
  return {
    "training": [
      {key: row[key] for key in ("step", "score", "kl", "tokens")}
      for row in training
    ],
    "selected_step": summary["selected_step"],
    "candidates": [
      {
        "step": c["step"],
        "score": c["score"],
        "preference": dataclasses.asdict(
          statistics.wilson(c["preference"] * c["n"], c["n"])
        ),
      }
      for c in summary["candidates"]
    ],
  }


def read_runs(root: pathlib.Path) -> list[dict[str, Any]]:
  """Job and seconds of every finished run."""
  result = []
  for path in root.glob("*/result.json"):
    summary = json.loads(path.read_text("utf-8"))
    result.append(
      {
        "run": path.parent.name,
        "job": summary.get("job", ""),
        "seconds": summary.get("seconds", 0.0),
        "finished": path.stat().st_mtime,
      }
    )
  return sorted(result, key=lambda row: row["finished"])


def facts() -> dict[str, str]:
  """Versions behind the numbers."""
  names = ("rlaif_jax", "jax", "flax", "optax", "orbax-checkpoint", "numpy")
  return {
    "python": platform.python_version(),
    "machine": platform.machine(),
    **versions.installed(names),
  }
