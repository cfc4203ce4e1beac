# SPDX-License-Identifier: Apache-2.0
"""Win rates by a judge in both orders."""

from __future__ import annotations

import dataclasses
import json

import pytest

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.evaluation import rankings
from rlaif_jax.jobs import compare_policies
from rlaif_jax.api import labelers
from rlaif_jax.labeling import pairwise_judge
from rlaif_jax.text import estimates
from tests import testing

LABELER = labelers.LabelerConfig(labeler_dir="x")
POLICIES = {"SFT": "<b>short</b> {}", "RLAIF": "a longer text about {}"}


@pytest.fixture(name="runs")
def fixture_runs(tmp_path):
  for name, text in POLICIES.items():
    rows = [
      records.Response(
        id=f"e{i}",
        index=0,
        context=f"document {i}",
        text=text.format(i),
        tokens=3,
        finished=True,
      )
      for i in range(20 + (name == "SFT"))
    ]
    jsonl.write_records(tmp_path / name / "responses.jsonl", rows)
  return tmp_path


def scripted(log_prob, monkeypatch):
  backend = testing.ScriptedBackend(log_prob, name="judge <i>x</i>")
  labeler = labelers.Labeler(
    backend=backend, tokenizer=estimates.EstimatedTokenizer()
  )
  monkeypatch.setattr(labelers, "load_labeler", lambda *_, **__: labeler)
  return backend


def compare(runs, **settings):
  result = compare_policies.run(
    output_dir=str(runs / "out"),
    runs_dir=str(runs),
    responses={name: name for name in POLICIES},
    labeler=LABELER,
    **{"judge": pairwise_judge.PairwiseJudgeConfig()} | settings,
  )
  return result, json.loads((runs / "out" / "results.json").read_text())


def prefers_long(prompt, option):
  """The long one wins, but for documents 0 to 4, where "1" always does."""
  number = int(prompt.split("document ")[1].split()[0])
  long_first = prompt.index("a longer") < prompt.index("<b>short")
  best = "1" if number < 5 or long_first else "2"
  return -0.1 if option == best else -3.0


def test_a_win_must_hold_in_both_orders(runs, monkeypatch):
  backend = scripted(prefers_long, monkeypatch)
  result, found = compare(runs)
  (row,) = found["judged"]["comparisons"]
  assert (row["a"], row["b"], row["ties"]) == ("SFT", "RLAIF", 5)
  assert row["win_rate"]["n"] == 20  # the contexts that both answer
  assert row["win_rate"]["value"] == pytest.approx(2.5 / 20)
  assert row["length_ratio"]["value"] < 1 and row["unanswered"] == 0
  assert 0 < row["soft_win_rate"]["value"] < 0.5
  assert found["judged"]["order"]["flipped"]["value"] == 0.25
  assert list(result["win_rates"]) == ["judged: SFT against RLAIF"]
  page = (runs / "out" / "compare.html").read_text()
  assert "12.5 %" in page and "87.5 %" in page
  assert "<b>short" not in page and "judge &lt;i&gt;" in page
  compare(runs)
  assert len(backend.calls) == 1  # the second start asks nobody


def test_what_is_not_answered_is_counted(runs, monkeypatch):
  def log_prob(prompt, option):
    if "document 3\n" in prompt:
      return float("nan")
    return prefers_long(prompt, option)

  scripted(log_prob, monkeypatch)
  result, found = compare(runs, limit=14)
  (row,) = found["judged"]["comparisons"]
  assert row["unanswered"] == result["quarantined"] == 1
  assert row["win_rate"]["n"] == 13


def test_equal_texts_are_a_tie(runs, monkeypatch):
  for name in POLICIES:
    rows = jsonl.read_records(records.Response, runs / name / "responses.jsonl")
    rows[0] = dataclasses.replace(rows[0], text="the same")
    jsonl.write_records(runs / name / "responses.jsonl", rows)
  scripted(prefers_long, monkeypatch)
  _, found = compare(runs)
  (row,) = found["judged"]["comparisons"]
  assert row["win_rate"]["n"] == 20 and row["ties"] == 5  # 0 and 1 to 4


def test_people_rank(tmp_path):
  rows = [
    rankings.Ranking(
      id=f"i{i}",
      rater=rater,
      order=("RLAIF", "SFT", "human") if i % 3 else ("human", "RLAIF", "SFT"),
    )
    for i in range(12)
    for rater in ("ann", "bob")
  ]
  jsonl.write_records(tmp_path / "rankings.jsonl", rows)
  result = compare_policies.run(
    output_dir=str(tmp_path / "out"),
    rankings_files=(str(tmp_path / "rankings.jsonl"),),
  )
  rates = result["win_rates"]
  assert rates["ranked: RLAIF against SFT"]["value"] == 1.0
  assert rates["ranked: RLAIF against human"]["value"] == pytest.approx(2 / 3)
  page = (tmp_path / "out" / "compare.html").read_text()
  assert "2 raters" in page and "1.000" in page  # Kendall's W
  assert "measured nothing" in page  # no judge


def test_wrong_settings(runs, monkeypatch):
  scripted(prefers_long, monkeypatch)
  with pytest.raises(ValueError, match="set it to 'both'"):
    compare(runs, judge=pairwise_judge.PairwiseJudgeConfig(orders="first"))
  jsonl.write_records(runs / "SFT" / "responses.jsonl", [])
  with pytest.raises(ValueError, match="no context in common"):
    compare(runs)
  with pytest.raises(ValueError, match="two or more policies"):
    compare_policies.run(
      output_dir="x",
      runs_dir=str(runs),
      responses={"SFT": "SFT"},
      judge=pairwise_judge.PairwiseJudgeConfig(),
      labeler=LABELER,
    )
  with pytest.raises(ValueError, match="or rankings_files"):
    compare_policies.run(output_dir="x")
