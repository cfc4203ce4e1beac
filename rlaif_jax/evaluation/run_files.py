# SPDX-License-Identifier: Apache-2.0
"""Reads the result files of finished runs for reports."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import platform
from typing import Mapping, Sequence, TypeVar

import numpy as np

from rlaif_jax.core import inputs
from rlaif_jax.core import jsonl
from rlaif_jax.core import parsing
from rlaif_jax.core import records
from rlaif_jax.core import versions
from rlaif_jax.evaluation import gold
from rlaif_jax.evaluation import win_rate
from rlaif_jax.ops import statistics
from rlaif_jax.text import prompts

T = TypeVar("T")
# result.json of a run.
Summary = records.Row


def read_summary(path: pathlib.Path) -> Summary:
  """Returns a result.json; missing numbers of its estimates are NaN.

  Raises:
    ValueError: it is no JSON object, or has no text as its job or no number
      as its seconds; names the file.
  """
  summary = read_results(path)
  with parsing.naming(path):
    parsing.field(summary, "job", str, "")
    parsing.field(summary, "seconds", float, 0.0)
  return summary


def read_results(path: pathlib.Path) -> records.Row:
  """Returns a JSON object; missing numbers of its estimates are NaN."""
  return with_nan(parsing.read_json(path, nan_is_null=True))


def with_nan(value: T) -> T:
  """Returns a JSON value with NaN for the missing numbers of estimates."""
  if isinstance(value, list):
    return [with_nan(part) for part in value]
  if not isinstance(value, dict):
    return value
  if {"value", "low", "high", "n"} <= value.keys():
    return {k: math.nan if v is None else v for k, v in value.items()}
  return {key: with_nan(part) for key, part in value.items()}


def finished(root: pathlib.Path) -> dict[str, dict[str, Summary]]:
  """Returns job -> run -> result.json of the runs in a folder."""
  found: dict[str, dict[str, Summary]] = {}
  for path in sorted(root.glob("*/result.json")):
    summary = read_summary(path)
    found.setdefault(summary.get("job", ""), {})[path.parent.name] = summary
  return found


def responses(
  root: pathlib.Path, runs: Mapping[str, str]
) -> dict[str, dict[str, records.Response]]:
  """Returns policy -> context id -> response of `sample` runs.

  Trailing symbols are stripped from the texts.

  Raises:
    ValueError: a run has several samples of a context.
  """
  result = {}
  for name, run in runs.items():
    path = root / run / "responses.jsonl"
    rows = jsonl.read_records(records.Response, path, jsonl.of_run())
    by_id = {
      row.id: dataclasses.replace(
        row, text=prompts.strip_trailing_symbols(row.text)
      )
      for row in rows
    }
    if len(by_id) != len(rows):
      raise ValueError(
        f"{path} has {len(rows)} responses to {len(by_id)} contexts; sample "
        "with num_samples = 1 for evaluation"
      )
    result[name] = by_id
  return result


def labelers(
  root: pathlib.Path, runs: Mapping[str, str]
) -> dict[str, records.Row]:
  """Returns alignment, position bias and usage of `label` runs.

  Raises:
    ValueError: a run has no alignment with human labels.
  """
  result = {}
  for name, run in runs.items():
    summary = read_summary(root / run / "result.json")
    if "alignment" not in summary:
      raise ValueError(
        f"{root / run} has no alignment; run the label job with "
        "label.human_labels_file set"
      )
    keys = ("alignment", "position_bias", "answered", "quarantined", "usage")
    result[name] = {key: summary.get(key) for key in keys}
  return result


def reward_models(
  root: pathlib.Path, runs: Mapping[str, str]
) -> dict[str, list[records.Row]]:
  """Returns accuracy by number of labels of `train_reward` runs."""

  def accuracy(row: object) -> records.Row:
    row = jsonl.row_of(row)
    correct = parsing.field(row, "correct", float)
    share = statistics.wilson(correct, parsing.field(row, "n", int))
    labels = parsing.field(row, "labels", int)
    return {"labels": labels, "accuracy": _row(share)}

  return {
    name: jsonl.parse_rows(root / run / "reward_accuracy.jsonl", accuracy)
    for name, run in runs.items()
  }


def validation(
  directory: str | pathlib.Path,
) -> dict[int, list[records.Row]]:
  """Returns step -> rows of validation/STEP.jsonl, oldest first."""
  return {
    int(path.stem): jsonl.parse_rows(path, jsonl.row_of)
    for path in sorted((pathlib.Path(directory) / "validation").glob("*.jsonl"))
  }


def curves(
  directory: pathlib.Path, reward: gold.GoldReward = gold.program
) -> records.Row:
  """Returns validation and training curves of a `train_policy` run.

  Args:
    directory: the run.
    reward: gold of its validation responses.
  """
  curve = []
  for step, rows in validation(directory).items():
    scores = reward([r["context"] for r in rows], [r["text"] for r in rows])
    kl = [r["log_prob"] - r["ref_log_prob"] for r in rows]
    curve.append(
      {
        "step": step,
        "gold": _row(statistics.mean(scores.total)),
        "score": _row(statistics.mean([r["score"] for r in rows])),
        "kl": _row(statistics.mean(kl)),
      }
    )
  return {"validation": curve, **training(directory)}


def training(directory: pathlib.Path) -> records.Row:
  """Returns the training curve and candidates of a `train_policy` run."""

  def point(row: object) -> records.Row:
    row, columns = jsonl.row_of(row), ("step", "score", "kl", "tokens")
    return {key: parsing.field(row, key, float) for key in columns}

  def candidate(row: object) -> records.Row:
    row = jsonl.row_of(row)
    n = parsing.field(row, "n", int)
    preferred = parsing.field(row, "preference", float) * n
    return {
      "step": parsing.field(row, "step", int),
      "score": parsing.field(row, "score", float),
      "preference": _row(statistics.wilson(preferred, n)),
    }

  path = directory / "result.json"
  summary = read_summary(path)
  with parsing.naming(path):
    return {
      "training": jsonl.parse_rows(directory / "metrics.jsonl", point),
      "selected_step": parsing.field(summary, "selected_step", int),
      "candidates": [candidate(row) for row in summary["candidates"]],
    }


def harmless(
  root: pathlib.Path, summaries: Mapping[str, Summary]
) -> list[records.Row]:
  """Returns harmless rates of yes-or-no `score` runs, also at equal length."""
  judgments, lengths = {}, {}
  for name, summary in summaries.items():
    if summary.get("kind") != "yesno":
      continue
    rows = jsonl.read_records(records.Rating, root / name / "ratings.jsonl")
    path = root / name / "result.json"
    with parsing.naming(path):
      count = parsing.field(summary, "responses", int)
    if not len(rows) <= count <= 10**8:
      raise ValueError(
        f"{path}: responses is {count}; {len(rows)} have ratings"
      )
    missing = [math.nan] * (count - len(rows))
    good = [float(row.score > 0.5) for row in rows]
    judgments[name] = np.asarray([*good, *missing])
    lengths[name] = np.asarray([len(row.response) for row in rows] + missing)
  return [_row(rate) for rate in win_rate.harmless_rates(judgments, lengths)]


def timings(root: pathlib.Path) -> list[records.Row]:
  """Returns job and seconds of the finished runs, oldest first.

  They are not noted as inputs: some jobs run again whenever they are started.
  """
  result = []
  for path in root.glob("*/result.json"):
    with inputs.recording(None):
      summary = read_summary(path)
    result.append(
      {
        "run": path.parent.name,
        "job": summary.get("job", ""),
        "seconds": summary.get("seconds", 0.0),
        "finished": path.stat().st_mtime,
      }
    )
  return sorted(result, key=lambda row: row["finished"])


def environment() -> dict[str, str]:
  """Returns the versions of Python and of the main packages."""
  names = ("rlaif_jax", "jax", "flax", "optax", "orbax-checkpoint", "numpy")
  return {
    "python": platform.python_version(),
    "machine": platform.machine(),
    **versions.installed(names),
  }


def policy_numbers(
  scores: gold.GoldScores,
  lengths: Sequence[int],
  sampled: Sequence[records.Response] | None,
) -> records.Row:
  """Returns gold, its parts, lengths and KL of a policy, with intervals.

  Args:
    scores: gold of each response.
    lengths: characters of each response.
    sampled: the responses; None for human texts, which have no KL.
  """
  row = {
    "gold": statistics.mean(scores.total),
    "characters": statistics.mean(lengths),
  }
  for part, values in scores.parts.items():
    row[part] = statistics.mean(values)
  if sampled:
    row["kl"] = statistics.mean([r.log_prob - r.ref_log_prob for r in sampled])
    row["tokens"] = statistics.mean([r.tokens for r in sampled])
  return {name: _row(value) for name, value in row.items()}


def _row(record: object) -> records.Row:
  return dataclasses.asdict(record)
