# SPDX-License-Identifier: Apache-2.0
"""Results of runs read back from their files."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from rlaif_jax.core import inputs
from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.evaluation import gold
from rlaif_jax.evaluation import run_files

RESPONSE = records.Response(
  id="a",
  index=0,
  context="The cache keeps compiled programs.",
  text="Keeps programs. ..",
  tokens=4,
  finished=True,
  log_prob=-3.0,
  ref_log_prob=-5.0,
)


def put(root, name, file, rows):
  jsonl.write_text(
    root / name / file, "".join(json.dumps(row) + "\n" for row in rows)
  )


def test_finished_runs_by_job(tmp_path):
  put(tmp_path, "one", "result.json", [{"job": "label", "seconds": 2.0}])
  put(tmp_path, "two", "result.json", [{"job": "label"}])
  put(tmp_path, "unfinished", "metrics.jsonl", [])
  noted = []
  with inputs.recording(noted.append):
    run_files.timings(tmp_path)
    assert not noted
    found = run_files.finished(tmp_path)
  assert noted == [tmp_path / run / "result.json" for run in ("one", "two")]
  assert set(found) == {"label"} and set(found["label"]) == {"one", "two"}
  seconds = {row["run"]: row["seconds"] for row in run_files.timings(tmp_path)}
  assert seconds == {"one": 2.0, "two": 0.0}


def test_responses_are_stripped_and_unique(tmp_path):
  path = tmp_path / "run" / "responses.jsonl"
  jsonl.write_records(path, [RESPONSE])
  (found,) = run_files.responses(tmp_path, {"SFT": "run"})["SFT"].values()
  assert found.text == "Keeps programs."
  jsonl.write_records(path, [RESPONSE, dataclasses.replace(RESPONSE, index=1)])
  with pytest.raises(ValueError, match="num_samples = 1"):
    run_files.responses(tmp_path, {"SFT": "run"})


def test_a_labeler_without_alignment_is_named(tmp_path):
  put(tmp_path, "labels", "result.json", [{"job": "label"}])
  with pytest.raises(ValueError, match="human_labels_file"):
    run_files.labelers(tmp_path, {"AI": "labels"})


def test_rewards_and_training_have_intervals(tmp_path):
  row = {"labels": 8, "correct": 3, "n": 4}
  put(tmp_path, "reward", "reward_accuracy.jsonl", [row])
  ((point,),) = run_files.reward_models(tmp_path, {"x": "reward"}).values()
  assert point["labels"] == 8 and point["accuracy"]["value"] == 0.75
  candidate = {"step": 4, "score": 0.5, "preference": 0.75, "n": 8}
  summary = {"selected_step": 4, "candidates": [candidate]}
  put(tmp_path, "policy", "result.json", [summary])
  metrics = {"step": 1, "score": 0.1, "kl": 0.2, "tokens": 9.0, "loss": 1.0}
  put(tmp_path, "policy", "metrics.jsonl", [metrics])
  text = {"context": RESPONSE.context, "text": RESPONSE.text, "score": 1.0}
  text |= {"log_prob": -3.0, "ref_log_prob": -5.0}
  put(tmp_path, "policy", "validation/12.jsonl", [text])
  found = run_files.curves(tmp_path / "policy")
  assert found["training"] == [{k: metrics[k] for k in found["training"][0]}]
  assert found["candidates"][0]["preference"]["n"] == 8
  (point,) = found["validation"]
  assert (point["step"], point["kl"]["value"]) == (12, 2.0)


def test_unanswered_responses_are_counted(tmp_path):
  rating = records.Rating(
    id="a",
    context="c",
    response="xx",
    score=0.9,
    probabilities=(0.9, 0.1),
    labeler="l",
  )
  jsonl.write_records(tmp_path / "s" / "ratings.jsonl", [rating] * 2)
  summary = {"kind": "yesno", "responses": 3}
  (rate,) = run_files.harmless(tmp_path, {"s": summary})
  assert rate["rate"]["value"] == 1.0 and rate["unanswered"] == 1
  assert run_files.harmless(tmp_path, {"s": {"kind": "pointwise"}}) == []


def test_policy_numbers_of_humans_have_no_kl():
  score = gold.program([RESPONSE.context], [RESPONSE.text])
  own = run_files.policy_numbers(score, [17], [RESPONSE])
  human = run_files.policy_numbers(score, [17], None)
  assert own["kl"]["value"] == 2.0 and own["tokens"]["value"] == 4
  assert set(own) - set(human) == {"kl", "tokens"}
  assert own["gold"]["value"] == human["gold"]["value"] == score.total[0]


@pytest.mark.parametrize(
  "file, row, message",
  [
    ("result.json", {"job": 1}, "job is 1; it must be a text"),
    ("result.json", {"seconds": "2"}, "seconds is '2'"),
    ("result.json", [], "expected an object"),
    ("result.json", {"candidates": [1]}, "selected_step is missing"),
    (
      "result.json",
      {"selected_step": 1, "candidates": [{"n": 3, "preference": 2.0}]},
      "step is missing",
    ),
    ("metrics.jsonl", {"step": 1, "score": None}, "score is missing"),
    ("metrics.jsonl", {"step": [1]}, r"step is \[1\]"),
  ],
)
def test_a_damaged_file_is_named(tmp_path, file, row, message):
  put(tmp_path, "p", "result.json", [{"selected_step": 1, "candidates": []}])
  put(tmp_path, "p", "metrics.jsonl", [])
  put(tmp_path, "p", file, [row])
  with pytest.raises(ValueError, match=f"p/{file}.*{message}"):
    run_files.training(tmp_path / "p")


def test_missing_numbers_of_estimates_are_nan(tmp_path):
  nothing = {"value": None, "low": None, "high": None, "n": 0}
  put(tmp_path, "r", "result.json", [{"job": "score", "score": nothing}])
  found = run_files.finished(tmp_path)["score"]["r"]["score"]
  assert math.isnan(found["value"]) and found["n"] == 0
  (tmp_path / "r" / "result.json").write_text('{"x": NaN}')  # of old versions
  assert run_files.finished(tmp_path)[""]["r"] == {"x": None}
