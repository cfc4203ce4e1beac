# SPDX-License-Identifier: Apache-2.0
"""Scores of single responses, by a tiny model."""

from __future__ import annotations

import math

import pytest

from rlaif_jax.core import jsonl
from rlaif_jax.engine import preemption
from rlaif_jax.core import records
from rlaif_jax.api import labelers
from rlaif_jax.api import reward_loading
from rlaif_jax.jobs import score_responses
from rlaif_jax.labeling import pairwise_judge
from rlaif_jax.labeling import pointwise_judge
from tests import tiny_rubric

RATING = pointwise_judge.PointwiseJudgeConfig(
  template="docstring_rating", max_context_tokens=150
)
JUDGE = pairwise_judge.PairwiseJudgeConfig(
  template="docstring_pairwise", max_context_tokens=150
)


@pytest.fixture(name="files")
def fixture_files(tmp_path):
  rows = [
    records.Response(
      id=f"e{i // 2}",
      index=i % 2,
      context=f"the cat sat on {i // 2} mats",
      text="a cat" if i % 2 else f"{i} mats",
      tokens=2,
      finished=True,
    )
    for i in range(10)
  ]
  jsonl.write_records(tmp_path / "responses.jsonl", rows)
  humans = [
    records.Example(id=f"e{i}", context="c", response="a cat") for i in range(5)
  ]
  jsonl.write_records(tmp_path / "humans.jsonl", humans)
  return tmp_path


def score(world, files, out="out", **settings):
  result = score_responses.run(
    output_dir=str(files / out),
    responses_file=str(files / "responses.jsonl"),
    labeler=labelers.LabelerConfig(labeler_dir=str(world / "sft" / "model")),
    chunk_size=4,
    **settings,
  )
  return result, jsonl.read_records(records.Rating, result["ratings"])


def test_expected_scores(world, files):
  result, rows = score(world, files, judge=RATING)
  assert [row.id for row in rows] == [f"e{i // 2}/{i % 2}" for i in range(10)]
  assert all(
    1 <= row.score <= 10 and len(row.probabilities) == 10 for row in rows
  )
  assert result["score"]["n"] == result["answered"] == 10
  assert result["usage"]["requests"] == 10
  assert "share_above_half" not in result and result["kind"] == "pointwise"


def test_against_a_reference(world, files):
  result, rows = score(
    world, files, judge=JUDGE, reference_file=str(files / "humans.jsonl")
  )
  same = [row.score for row in rows if row.response == "a cat"]
  assert same == [0.5] * 5  # the reference itself, which is not asked
  assert result["usage"]["requests"] == 10
  assert result["share_above_half"]["n"] == 10
  assert result["kind"] == "reference"
  (files / "none.jsonl").write_text("")
  with pytest.raises(ValueError, match="no reference has the id 'e0'"):
    score(
      world,
      files,
      out="other",
      judge=JUDGE,
      reference_file=str(files / "none.jsonl"),
    )


def test_a_rubric(world, files):
  result, rows = score(world, files, judge=tiny_rubric.write(files))
  assert result["kind"] == "rubric" and "share_above_half" not in result
  assert all(len(row.probabilities) == 2 for row in rows)
  assert result["usage"]["requests"] == 20


def test_a_stopped_run_resumes_bit_exact(world, files, monkeypatch):
  score(world, files, out="whole", judge=RATING)
  monkeypatch.setattr(preemption, "requested", lambda: True)
  for _ in range(2):
    with pytest.raises(preemption.Preempted):
      score(world, files, judge=RATING)
  partial = files / "out" / "ratings.partial.jsonl"
  partial.write_bytes(partial.read_bytes() + b'{"torn')
  monkeypatch.undo()
  score(world, files, judge=RATING)
  for name in ("ratings.jsonl", "ratings.partial.jsonl"):
    one, two = ((files / run / name).read_bytes() for run in ("whole", "out"))
    assert one == two


def test_best_of_n_by_a_reward(world, files):
  reward = reward_loading.ScorerConfig(
    labeler_dir=str(world / "sft" / "model"), likelihood="pmi"
  )
  settings = {
    "responses_file": str(files / "responses.jsonl"),
    "reward": reward,
    "policy_dir": str(world / "sft" / "model"),
  }
  result = score_responses.run(
    output_dir=str(files / "all"), chunk_size=4, **settings
  )
  rows = jsonl.read_records(records.Rating, result["ratings"])
  assert result["kind"] == "reward" and result["labeler"] == reward.identity()
  assert len({row.score for row in rows}) > 2
  best = jsonl.read_records(records.Response, files / "all/responses.jsonl")
  assert [row.id for row in best] == [f"e{i}" for i in range(5)]
  for i, row in enumerate(best):
    two = rows[2 * i : 2 * i + 2]
    assert row.text == max(two, key=lambda rating: rating.score).response
  assert result["best_of"] == 2
  assert result["kl_bound"] == pytest.approx(math.log(2) - 0.5)
  # A reward of one response does not depend on the others beside it.
  alone = score_responses.run(
    output_dir=str(files / "one"), chunk_size=1, limit=1, **settings
  )
  (first,) = jsonl.read_records(records.Rating, alone["ratings"])
  assert first.score == pytest.approx(rows[0].score, abs=1e-5)
  assert "best_of" not in alone
  assert not (files / "one/responses.jsonl").exists()


def test_a_judge_takes_the_best_too(world, files):
  result, rows = score(world, files, judge=RATING)
  best = jsonl.read_records(records.Response, files / "out/responses.jsonl")
  scores = {row.id: row.score for row in rows}
  for row in best:
    assert scores[f"{row.id}/{row.index}"] == max(
      scores[f"{row.id}/{i}"] for i in range(2)
    )
  assert result["best_of"] == 2


@pytest.mark.parametrize(
  "settings",
  [{"judge": RATING, "reference_file": "humans.jsonl"}, {"judge": JUDGE}],
)
def test_references_go_with_a_pairwise_judge(world, files, settings):
  with pytest.raises(ValueError, match="with a PairwiseJudgeConfig only"):
    score(world, files, **settings)
