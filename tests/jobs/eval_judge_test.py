# SPDX-License-Identifier: Apache-2.0
"""The grid of labelers, prompts and tasks, on a tiny model."""

from __future__ import annotations

import dataclasses
import json

import pytest

from rlaif_jax.api import labelers
from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.engine import checkpoint
from rlaif_jax.jobs import eval_judge
from rlaif_jax.labeling import endpoint_config
from rlaif_jax.labeling import judge_grid
from tests import tiny_world as tiny


@pytest.fixture(name="humans")
def fixture_humans(tmp_path):
  rows = []
  for i in range(16):
    first, second = (tiny.GOOD, "a mat") if i % 2 else ("a mat", tiny.GOOD)
    rows.append(
      records.Preference(
        id=f"p{i}",
        context=f"{tiny.GOOD} {i}",
        first=first,
        second=second,
        p_first=float(i % 2),
        labeler="human",
        source="long" if i < 8 else "short",
      )
    )
  jsonl.write_records(tmp_path / "humans.jsonl", rows)
  return str(tmp_path / "humans.jsonl")


GRID = judge_grid.JudgeGridConfig(
  templates=("docstring_pairwise",),
  likelihoods=("mean_log_prob",),
  max_context_tokens=150,
)


def evaluate(world, out, humans, **settings):
  return eval_judge.run(
    output_dir=str(out),
    tasks={"docstring": humans},
    **{
      "grid": GRID,
      "labelers": {"tiny": str(world / "sft" / "model")},
    }
    | settings,
  )


def cells(out):
  return [json.loads(line) for line in (out / "cells.jsonl").open()]


def test_every_cell_is_measured_and_the_best_is_chosen_elsewhere(
  world, tmp_path, humans
):
  out = tmp_path / "out"
  result = evaluate(world, out, humans)
  rows = cells(out)
  assert [row["cell"] for row in rows] == [
    "docstring_pairwise 0-shot",
    "mean_log_prob",
  ]
  for row in rows:
    parts = [row[k]["accuracy"]["n"] for k in ("selection", "alignment")]
    assert sum(parts) == 16 and min(parts) > 2
    kinds = [row["kinds"][k]["accuracy"]["n"] for k in ("long", "short")]
    assert sum(kinds) == parts[1]
    assert row["seconds_per_label"] > 0
    assert row["calibration"]["error"]["n"] == row["length"]["judge"]["n"] == 16
  assert rows[0]["position_bias"]["same_position"]["n"] == 16
  assert rows[1]["position_bias"]["same_position"]["n"] == 0  # no orders
  (best,) = result["best"]
  highest = max(row["selection"]["accuracy"]["value"] for row in rows)
  assert best["selection"]["accuracy"]["value"] == highest
  page = (out / "eval_judge.html").read_text()
  assert "docstring_pairwise 0-shot" in page and page.count("<svg") == 3


def test_a_second_start_asks_nothing_and_ends_the_same(world, tmp_path, humans):
  out = tmp_path / "out"
  evaluate(world, out, humans)
  first = (out / "cells.jsonl").read_bytes()
  store = (out / "store" / "labels.jsonl").read_bytes()
  evaluate(world, out, humans)
  assert (out / "cells.jsonl").read_bytes() == first
  assert (out / "store" / "labels.jsonl").read_bytes() == store
  few = tmp_path / "few"
  evaluate(world, few, humans, limit=6)
  assert cells(few)[0]["usage"]["requests"] == 12


def numbers(tree):
  """Those of a table with tables inside, in order."""
  if isinstance(tree, dict):
    return [x for key in sorted(tree) for x in numbers(tree[key])]
  return [tree] if isinstance(tree, int | float) else []


def test_the_rest_is_asked_in_the_best_way_alone(world, tmp_path, humans):
  grid = dataclasses.replace(GRID, only_best_on_rest=True)
  result = evaluate(world, tmp_path / "few", humans, grid=grid)
  evaluate(world, tmp_path / "all", humans)
  few, whole = cells(tmp_path / "few"), cells(tmp_path / "all")
  (best,) = result["best"]
  for row, full in zip(few, whole, strict=True):
    # The other prompts of a batch change its answer by rounding.
    assert numbers(row["selection"]) == pytest.approx(
      numbers(full["selection"]), abs=1e-6
    )
    if row["cell"] == best["cell"]:
      assert numbers(row["alignment"]) == pytest.approx(
        numbers(full["alignment"]), abs=1e-6
      )
    else:
      assert row["alignment"] is None
      assert row["usage"]["requests"] < full["usage"]["requests"]
  page = (tmp_path / "few" / "eval_judge.html").read_text()
  assert "no answer" not in page


def test_without_answers_there_is_no_alignment(world, tmp_path, humans):
  grid = judge_grid.JudgeGridConfig(
    templates=("docstring_pairwise",), max_context_tokens=20
  )
  result = evaluate(world, tmp_path / "out", humans, grid=grid)
  (row,) = cells(tmp_path / "out")
  assert row["alignment"] is None and row["selection"] is None
  assert result["quarantined"] == 16 and not result["best"]
  assert "no answer" in (tmp_path / "out" / "eval_judge.html").read_text()


def test_two_labelers_of_one_name_are_both_measured(
  world, namesake, tmp_path, humans
):
  directories = {"a": str(world / "sft" / "model"), "b": str(namesake)}
  evaluate(world, tmp_path / "out", humans, labelers=directories)
  rows = cells(tmp_path / "out")
  assert [row["labeler"] for row in rows] == ["a", "a", "b", "b"]
  assert [row["model"] for row in rows[::2]] == [
    checkpoint.identity_of(directory) for directory in directories.values()
  ]
  alone = tmp_path / "alone"
  evaluate(world, alone, humans, labelers={"b": str(namesake)})
  unlike = ("seconds_per_label",)
  assert [
    {k: v for k, v in x.items() if k not in unlike} for x in rows[2:]
  ] == [{k: v for k, v in x.items() if k not in unlike} for x in cells(alone)]
  page = (tmp_path / "out" / "eval_judge.html").read_text()
  assert f"b is {checkpoint.identity_of(namesake)}." in page


def write_benchmark(tmp_path):
  """RewardBench rows of a published and an own subset, and two bad ones."""
  rows = [
    {
      "id": i,
      "prompt": f"{tiny.GOOD} {i}",
      "chosen": tiny.GOOD,
      "rejected": "a mat",
      "subset": "mine" if i < 8 else "donotanswer",
    }
    for i in range(12)
  ]
  rows += [{**rows[0], "id": 90, "chosen": True}, {"prompt": "alone"}]
  jsonl.write_rows(tmp_path / "benchmark.jsonl", rows)
  return str(tmp_path / "benchmark.jsonl")


def test_a_benchmark_is_scored_by_subset_and_section(world, tmp_path):
  path, out = write_benchmark(tmp_path), tmp_path / "out"
  grid = dataclasses.replace(GRID, select_share=0.0)
  with jsonl.quarantining_input() as bad:
    result = evaluate(world, out, path, grid=grid)
  assert [row["where"] for row in bad.rows] == [f"{path}:13", f"{path}:14"]
  rows = [json.loads(line) for line in (out / "subsets.jsonl").open()]
  assert [(row["cell"], row["subset"], row["score"]["n"]) for row in rows] == [
    ("docstring_pairwise 0-shot", "mine", 8),
    ("docstring_pairwise 0-shot", "donotanswer", 4),
    ("mean_log_prob", "mine", 8),
    ("mean_log_prob", "donotanswer", 4),
  ]
  assert result["subsets"] == 4 and result["overall"] == []
  pairwise = rows[0]
  assert pairwise["position_bias"]["consistent"]["n"] == 8
  assert pairwise["alignment"]["longer_wins"]["value"] == 1.0
  for row in cells(out):
    assert [s["name"] for s in row["sections"]] == ["Safety", "mine"]
    assert row["sections"][0]["score"] is None
  assert "of no published section" in (out / "eval_judge.html").read_text()
  with pytest.raises(ValueError, match="benchmark.jsonl:13: chosen is True"):
    evaluate(world, tmp_path / "strict", path, grid=grid)


def test_a_jury_is_one_more_labeler(world, namesake, tmp_path, humans):
  directories = {"a": str(world / "sft" / "model"), "b": str(namesake)}
  out = tmp_path / "out"
  evaluate(world, out, humans, labelers=directories, jury=("all",))
  rows = cells(out)
  assert [row["labeler"] for row in rows] == [
    "a",
    "a",
    "b",
    "b",
    "jury",
    "jury",
  ]
  a, b, both = rows[::2]
  assert both["model"] == "a, b" and both["cell"] == a["cell"]
  assert both["position_bias"]["same_position"]["n"] == 16
  assert both["usage"]["requests"] == 64  # both orders, twice
  # The Brier score is convex: the mean label is no worse than the mean score.
  brier = [row["calibration"]["brier"]["value"] for row in (a, b, both)]
  assert brier[2] <= (brier[0] + brier[1]) / 2
  best = dataclasses.replace(GRID, only_best_on_rest=True)
  with pytest.raises(ValueError, match="only_best_on_rest is set"):
    evaluate(
      world, out, humans, labelers=directories, jury=("a", "b"), grid=best
    )
  with pytest.raises(ValueError, match="jury has 'c', which is no labeler"):
    evaluate(world, out, humans, labelers=directories, jury=("a", "c"))


def test_an_endpoint_with_the_name_of_a_labeler_is_refused(
  world, tmp_path, humans
):
  served = endpoint_config.EndpointConfig(model="tiny", base_url="http://h/v1")
  with pytest.raises(ValueError, match="'tiny', which is also the model of"):
    evaluate(
      world,
      tmp_path,
      humans,
      labeler=labelers.LabelerConfig(endpoint=served),
    )
