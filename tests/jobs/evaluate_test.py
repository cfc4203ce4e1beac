# SPDX-License-Identifier: Apache-2.0
"""Evaluation of stored responses: joined by context, judged by gold."""

from __future__ import annotations

import pytest

from rlaif_jax.api import gold_rewards
from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.data import pipeline
from rlaif_jax.jobs import evaluate
from tests import tiny_encoder

CONTEXT = "The cache keeps compiled programs between runs of the same compiler"
GOOD = "Keeps compiled programs in the cache between runs of the compiler."


def respond(root, run, text, ids, repeat=1):
  rows = [
    records.Response(
      id=i,
      index=j,
      context=f"{CONTEXT} {i}",
      text=text,
      tokens=4,
      finished=True,
      log_prob=-3.0,
      ref_log_prob=-5.0,
    )
    for i in ids
    for j in range(repeat)
  ]
  jsonl.write_records(root / run / "responses.jsonl", rows)


@pytest.fixture
def runs(tmp_path, monkeypatch):
  ids = [f"e{i}" for i in range(30)]
  examples = [
    records.Example(id=i, context=f"{CONTEXT} {i}", response="A cache.")
    for i in ids
  ]
  monkeypatch.setattr(
    pipeline, "load_examples", lambda *args, **kwargs: examples
  )
  respond(tmp_path, "a", "A zebra", ids)
  respond(tmp_path, "b", GOOD, ids[:25])
  return tmp_path


def test_the_better_texts_win_on_the_common_contexts(runs):
  result = evaluate.run(
    output_dir=str(runs / "out"),
    runs_dir=str(runs),
    runs=evaluate.EvaluationRuns(responses={"SFT": "a", "better": "b"}),
  )
  rate = result["win_rates"]["SFT against better"]
  assert rate["value"] == 0.0 and rate["n"] == 25
  page = (runs / "out" / "report.html").read_text()
  assert "better against SFT" in page and "Keeps compiled" in page
  results = jsonl.json.loads((runs / "out" / "results.json").read_text())
  assert results["policies"]["better"]["kl"]["value"] == pytest.approx(2.0)
  assert set(results["policies"]) == {"SFT", "better", "human"}


def test_copied_words_are_a_policy(runs):
  evaluate.run(
    output_dir=str(runs / "out"),
    runs_dir=str(runs),
    runs=evaluate.EvaluationRuns(responses={"SFT": "a"}),
    lead_words=3,
  )
  results = jsonl.json.loads((runs / "out" / "results.json").read_text())
  for row in results["examples"]:
    assert row["texts"]["first 3 words"] == "The cache keeps"
  names = {(c["a"], c["b"]) for c in results["comparisons"]}
  assert ("first 3 words", "SFT") in names or ("SFT", "first 3 words") in names


def nearness(runs, lines):
  """Returns nearness to `lines` (id -> line) as the gold of a job."""
  tiny_encoder.write(runs / "encoder")
  rows = [
    records.Example(id=i, context=f"{CONTEXT} {i}", response=line)
    for i, line in lines.items()
  ]
  jsonl.write_records(runs / "rows/test.jsonl", rows)
  return gold_rewards.NearnessSource(
    encoder_dir=str(runs / "encoder"), references_dir=str(runs / "rows")
  )


def test_nearness_to_the_human_line_may_be_the_gold(runs):
  """The text that the program prefers loses; curves use the same gold."""
  step = runs / "c/validation/2.jsonl"
  row = {"context": f"{CONTEXT} e0", "text": "zebra", "score": 0.5}
  jsonl.write_text(
    step, jsonl.dump_row({**row, "log_prob": -1.0, "ref_log_prob": -2.0})
  )
  result = {"job": "train_policy", "selected_step": 2, "candidates": []}
  jsonl.write_text(runs / "c/result.json", jsonl.dump_row(result))
  jsonl.write_text(runs / "c/metrics.jsonl", "")
  found = evaluate.run(
    output_dir=str(runs / "out"),
    runs_dir=str(runs),
    runs=evaluate.EvaluationRuns(
      responses={"SFT": "a", "better": "b"}, policies={"RL": "c"}
    ),
    gold_reward=nearness(runs, {f"e{i}": "zebra" for i in range(30)}),
  )
  assert found["win_rates"]["SFT against better"]["value"] == 1.0
  results = jsonl.json.loads((runs / "out" / "results.json").read_text())
  row = results["policies"]["SFT"]
  assert {"similarity", "chrf", "rules"} < set(row) and "brevity" not in row
  assert results["curves"]["RL"]["validation"][0]["gold"]["value"] > 0.999
  page = (runs / "out" / "report.html").read_text()
  assert "<th>chrF</th>" in page and "<th>Brevity</th>" not in page


def test_several_samples_of_a_context_are_refused(runs):
  respond(runs, "c", GOOD, ["e0"], repeat=2)
  with pytest.raises(ValueError, match="num_samples = 1"):
    evaluate.run(
      output_dir=str(runs / "out"),
      runs_dir=str(runs),
      runs=evaluate.EvaluationRuns(responses={"SFT": "c"}),
    )


def test_an_unknown_baseline_is_an_error(runs):
  with pytest.raises(ValueError, match="baseline"):
    evaluate.run(
      output_dir=str(runs / "out"),
      runs_dir=str(runs),
      runs=evaluate.EvaluationRuns(responses={"x": "a"}),
    )
