# SPDX-License-Identifier: Apache-2.0
"""Arms that only count: order, names, costs, and resumption after a stop."""

from __future__ import annotations

import types

import pytest

from rlaif_jax.core import jsonl
from rlaif_jax.engine import preemption
from rlaif_jax.experiments import toy_rows

ARMS = [types.SimpleNamespace(name=name) for name in ("one", "two")]


def run(directory, opened, arms=ARMS):
  def of_seed(seed):
    opened.append(seed)

    def of_arm(arm):
      gold = float(seed + len(arm.name))
      rows = {"proxy": [{"accuracy": 0.5}], "policy": 2 * [{"gold": gold}]}
      return rows, [{"bytes": 4}] if arm.name == "one" else []

    return of_arm

  return toy_rows.run_arms(
    output_dir=str(directory),
    arms=arms,
    seeds=(3, 4),
    open_seed=of_seed,
  )


def read(path):
  return jsonl.parse_rows(path, dict)


def test_every_arm_of_every_seed_has_its_rows(tmp_path):
  opened = []
  result = run(tmp_path, opened)
  assert opened == [3, 4]
  assert (result["arms"], result["seeds"]) == (["one", "two"], [3, 4])
  found = read(tmp_path / "rows.jsonl")
  assert found[:3] == [
    {"arm": "one", "seed": 3, "stage": "proxy", "accuracy": 0.5},
    {"arm": "one", "seed": 3, "stage": "policy", "gold": 6.0},
    {"arm": "one", "seed": 3, "stage": "policy", "gold": 6.0},
  ]
  assert [(r["seed"], r["arm"]) for r in found[::3]] == [
    (3, "one"),
    (3, "two"),
    (4, "one"),
    (4, "two"),
  ]
  costs = read(tmp_path / "costs.jsonl")
  assert costs == [{"arm": "one", "seed": s, "bytes": 4} for s in (3, 4)]


def test_a_stop_in_the_middle_of_a_seed_changes_nothing(tmp_path, monkeypatch):
  run(tmp_path / "whole", [])
  calls = iter([False, True])
  with monkeypatch.context() as patch:
    patch.setattr(preemption, "requested", lambda: next(calls))
    with pytest.raises(preemption.Preempted, match="two, seed 3"):
      run(tmp_path / "parts", [])
  opened = []
  run(tmp_path / "parts", opened)
  assert opened == [3, 4]  # What the seed's arms share is made again.
  for name in ("rows.jsonl", "costs.jsonl"):
    whole = (tmp_path / "whole" / name).read_bytes()
    assert (tmp_path / "parts" / name).read_bytes() == whole
  run(tmp_path / "parts", opened)
  assert opened == [3, 4]  # Nothing is left to do.


def test_arms_have_their_own_names(tmp_path):
  with pytest.raises(ValueError, match="names must be unique"):
    run(tmp_path, [], ARMS[:1] * 2)
