# SPDX-License-Identifier: Apache-2.0
"""Cells of a grid: their labels, costs and numbers."""

from __future__ import annotations

import dataclasses
import math

import pytest

from rlaif_jax.api import judge_cells
from rlaif_jax.api import labelers
from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.data import benchmarks
from rlaif_jax.labeling import costs
from rlaif_jax.labeling import judge_grid
from rlaif_jax.labeling import pairwise_judge
from tests import testing

CONFIG = pairwise_judge.PairwiseJudgeConfig(template="docstring_pairwise")


def benchmark():
  pairs = [
    records.Preference(
      id=str(i),
      context=f"{i}" * (10 if i < 2 else 200),
      first="good",
      second="bad",
      p_first=1.0,
      labeler="human",
      source="short" if i < 2 else "long",
    )
    for i in range(4)
  ]
  items = [
    records.BenchmarkItem(id=p.id, subset=p.source, pairs=(p,)) for p in pairs
  ]
  return benchmarks.Benchmark("preferences", items)


def first_position(prompt, option):
  """Log-probs of 0.8 and 0.2 for the first and the second position."""
  del prompt
  return math.log(0.8 if option.strip() == "1" else 0.2)


def label(tmp_path, prices=costs.FREE, pairs=None, backend=None):
  """Labels pairs with a judge that prefers the first position."""
  labeler = labelers.Labeler(
    backend=backend or testing.ScriptedBackend(first_position),
    tokenizer=testing.CharTokenizer(),
    prices=prices,
  )
  return judge_cells.label_pairs(
    "cell",
    CONFIG,
    benchmark().pairs if pairs is None else pairs,
    prefix="model/task",
    labeler=labeler,
    store=labelers.StoreConfig(store_dir=str(tmp_path / "store")),
    quarantine=jsonl.Quarantine(),
  )


def test_costs_are_divided_by_the_tokens_of_the_pairs(tmp_path):
  prices = costs.Prices(input_usd_per_1k=1.0)
  found = label(tmp_path, prices)
  assert len(found.labels) == 4
  total = found.costs["cost_usd"]
  assert total == found.costs["usage"]["input_tokens"] / 1000
  assert sum(found.subset_costs.values()) == pytest.approx(total)
  # Two prompts per pair, and two pairs per subset.
  difference = found.subset_costs["long"] - found.subset_costs["short"]
  assert difference == pytest.approx(2 * 2 * 190 / 1000)
  assert label(tmp_path).subset_costs == {}


def test_stored_labels_are_not_requested_again(tmp_path):
  backend = testing.ScriptedBackend(first_position)
  label(tmp_path, backend=backend, pairs=benchmark().pairs[:3])
  assert sum(map(len, backend.calls)) == 6
  found = label(tmp_path, backend=backend)
  assert sum(map(len, backend.calls)) == 8 and len(found.labels) == 4
  assert found.costs["seconds_per_label"] > 0


def test_a_cell_is_measured_whole_and_by_subset(tmp_path):
  found = label(tmp_path)
  row, subsets = found.measure(benchmark(), 0.0)
  assert row["position_bias"]["same_position"]["value"] == 1.0
  assert row["alignment"]["accuracy"]["n"] == 4 and row["overall"] is None
  assert [part["subset"] for part in subsets] == ["short", "long"]
  assert [part["name"] for part in row["sections"]] == ["short", "long"]
  assert row["cost_usd"] == 0.0


def test_the_rest_is_labelled_by_the_best_judge(tmp_path):
  grid = judge_grid.JudgeGridConfig(
    templates=("{task}_pairwise",),
    exemplar_trials=0,
    shots=(0,),
    likelihoods=("pmi",),
    only_best_on_rest=True,
    select_share=0.5,
  )
  asked = []

  def label_fn(name, judge, pairs):
    del judge
    asked.append((name, len(pairs)))
    p = 0.9 if name == "pmi" else 0.1
    labels = [
      dataclasses.replace(human, p_first=p, labeler="m") for human in pairs
    ]
    return judge_cells.Cell(labels=labels, costs={}, subset_costs={})

  cells = judge_cells.label_grid(grid, "docstring", benchmark(), label_fn)
  selected = asked[0][1]
  assert 0 < selected < 4
  assert asked == [
    ("docstring_pairwise 0-shot", selected),
    ("pmi", selected),
    ("pmi", 4),
  ]
  assert [len(cell.labels) for cell in cells.values()] == [selected, 4]
  asked.clear()
  grid = dataclasses.replace(grid, only_best_on_rest=False)
  judge_cells.label_grid(grid, "docstring", benchmark(), label_fn)
  assert [count for _, count in asked] == [4, 4]
