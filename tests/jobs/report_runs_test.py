# SPDX-License-Identifier: Apache-2.0
"""One page of a folder of runs."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.evaluation import agreement
from rlaif_jax.jobs import report_runs
from rlaif_jax.ops import statistics
from tests.evaluation import judge_report_test
from tests.evaluation import compare_report_test


def put(root, name, job, summary, **files):
  folder = root / name
  folder.mkdir()
  result = {"job": job, "seconds": 1.0, **summary}
  (folder / "result.json").write_text(json.dumps(result))
  for file, rows in files.items():
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / f"{file}.jsonl").write_text(text)
  return folder


def put_scores(tmp_path):
  mean = dataclasses.asdict(statistics.mean(np.asarray([6.0, 7.0])))
  ratings = [
    records.to_row(
      records.Rating(
        id=f"r{i}",
        context="c",
        response="x" * (i + 1),
        score=0.9 if i else 0.2,
        probabilities=(0.1, 0.9),
        labeler="l",
      )
    )
    for i in range(4)
  ]
  put(
    tmp_path,
    "<scored>",
    "score",
    {
      "kind": "yesno",
      "responses": 5,
      "labeler": "l",
      "score": mean,
      "characters": mean,
      "share_above_half": dataclasses.asdict(statistics.wilson(3, 4)),
      "quarantined": 1,
    },
    ratings=ratings,
  )


@pytest.fixture(name="runs")
def fixture_runs(tmp_path):
  labels = [
    records.Preference(
      id=f"p{i}",
      context="c",
      first="a",
      second="b",
      p_first=0.75,
      p_orders=(0.9, 0.6),
      labeler="l",
    )
    for i in range(8)
  ]
  humans = [dataclasses.replace(row, p_first=1.0) for row in labels]
  put(
    tmp_path,
    "labels",
    "label",
    {
      "alignment": agreement.to_row(agreement.alignment(labels, humans)),
      "position_bias": agreement.to_row(agreement.position_bias(labels)),
    },
  )
  put(tmp_path, "more_labels", "label", {"pairs": 3})  # measured nothing
  put(tmp_path, "grid", "eval_judge", {}, cells=judge_report_test.ROWS)
  row = {"labels": 1234, "correct": 30, "n": 40}
  put(tmp_path, "reward", "train_reward", {}, reward_accuracy=[row])
  candidate = {"step": 4, "score": 0.5, "preference": 0.75, "n": 8}
  metrics = [
    {"step": i, "score": 0.1 * i, "kl": 0.2, "tokens": 9.0} for i in range(5)
  ]
  put(
    tmp_path,
    "policy",
    "train_policy",
    {"selected_step": 4, "candidates": [candidate]},
    metrics=metrics,
  )
  compared = put(tmp_path, "against", "compare", {})
  (compared / "results.json").write_text(
    json.dumps(compare_report_test.results())
  )
  put_scores(tmp_path)
  return tmp_path


def test_every_kind_of_run_has_its_part(runs):
  result = report_runs.run(
    output_dir=str(runs / "page"), runs_dir=str(runs), title="Mine & yours"
  )
  assert result["runs"]["label"] == ["labels", "more_labels"]
  page = (runs / "page" / "report.html").read_text()
  assert "Mine &amp; yours" in page and "&lt;scored&gt;" in page
  assert "<scored>" not in page
  for text in (
    "AI labels",
    "Agreement of labelers with humans",
    "Reward models",
    "1234",
    "4 (selected)",
    "By a judge",
    "Scores of responses",
    "6.50",
    "At equal length",
    "75.0 %",
  ):
    assert text in page, text
  assert page.count("<svg") == 3 + 1 + 1


def test_only_what_was_run_is_shown(tmp_path):
  put(tmp_path, "data", "prepare", {})
  report_runs.run(output_dir=str(tmp_path / "out"), runs_dir=str(tmp_path))
  page = (tmp_path / "out" / "report.html").read_text()
  assert "<h2>Runs</h2>" in page and "Reward models" not in page
  with pytest.raises(ValueError, match="has a result.json"):
    report_runs.run(output_dir="x", runs_dir=str(tmp_path / "data"))


def test_toy_worlds_are_on_the_page_and_in_tables(tmp_path):
  """Unfinished ones too: they have rows and no result yet."""
  for name, gold in (("toy_a", 1.0), ("toy_b", 2.0)):
    rows = [
      {"arm": "one <b>", "seed": s, "stage": "policy", "step": i, "kl": 3.0 * i}
      | {"gold": gold * i, "proxy": 1.0, "tokens": 4.0}
      for s in (0, 1)
      for i in range(3)
    ]
    jsonl.write_text(
      tmp_path / name / "rows.jsonl",
      "".join(jsonl.dump_row(row) + "\n" for row in rows),
    )
  done = report_runs.run(
    output_dir=str(tmp_path / "report"), runs_dir=str(tmp_path)
  )
  assert done["runs"] == {}
  text = (tmp_path / "report" / "tables.md").read_text()
  assert "## toy_a: Policies" in text and "| 4.00 ± 0.00 |" in text
  page = (tmp_path / "report" / "report.html").read_text()
  assert "<h2>toy_b</h2>" in page and page.count("<svg") == 2
  assert "one &lt;b&gt;" in page and "<h2>Runs</h2>" not in page
