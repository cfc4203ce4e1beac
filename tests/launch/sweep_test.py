# SPDX-License-Identifier: Apache-2.0
"""Sweeps: what is run for each seed, and the table of results."""

from __future__ import annotations

import importlib.util
import json
import pathlib
import sys

import pytest

from tests.house import source

PATH = source.ROOT / "launch" / "sweep.py"


@pytest.fixture(scope="module")
def sweep():
  spec = importlib.util.spec_from_file_location("sweep", PATH)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.fixture
def runs(sweep, monkeypatch):
  """Instead of running: results by seed, a failure where there is none."""
  asked = []

  def run(results):
    class Done:
      returncode = 0

    def pretend(command, **_):
      asked.append(command)
      done = Done()
      seed = int(next(w for w in command if "--seed=" in w).split("=")[1])
      if seed not in results:
        done.returncode = 2
        return done
      (where,) = (w[13:] for w in command if w.startswith("--output_dir="))
      pathlib.Path(where).mkdir(parents=True)
      (pathlib.Path(where) / "result.json").write_text(
        json.dumps(results[seed])
      )
      return done

    monkeypatch.setattr(sweep.subprocess, "run", pretend)
    return asked

  return run


RECIPE = source.ROOT / "gin_configs" / "recipes" / "docstring_sft.gin"


def test_each_seed_is_the_recipes_own_command(sweep, runs, tmp_path):
  result = {"accuracy": {"value": 0.5, "n": 4}, "name": "x", "done": True}
  asked = runs({s: result for s in (4, 7)})
  code = sweep.main(
    [str(RECIPE), "--seeds", "4", "7", f"--output_dir={tmp_path}", "--", "--b"]
  )
  assert code == 0
  assert asked[0][0] == sys.executable and "--job=train_sft" in asked[0]
  assert asked[0][-3:] == [
    "--seed=4",
    f"--output_dir={tmp_path}/docstring_sft/seed4",
    "--b",
  ]
  assert sum(w.startswith("--output_dir") for w in asked[1]) == 1
  stored = json.loads((tmp_path / "sweep.json").read_text())
  # Numbers alone, and no truth values.
  assert sorted(stored["docstring_sft"]) == ["accuracy.n", "accuracy.value"]


def test_means_and_intervals_by_hand(sweep, runs, tmp_path):
  runs({0: {"x": 1.0}, 1: {"x": 2.0}, 2: {"x": 6.0}})
  sweep.main([str(RECIPE), f"--output_dir={tmp_path}"])
  row = json.loads((tmp_path / "sweep.json").read_text())["docstring_sft"]["x"]
  # The 97.5 % point of Student's t with 2 degrees of freedom is 4.3027.
  half = 4.302653 * (7**0.5) / 3**0.5
  assert (row["mean"], row["n"]) == (3.0, 3)
  assert row["half"] == pytest.approx(half, rel=1e-5)
  text = (tmp_path / "sweep.md").read_text()
  assert "| docstring_sft | x | 3 | [-3.572, 9.572] | 3 |" in text


def test_one_that_fails_is_told_and_the_others_go_on(sweep, runs, tmp_path):
  runs({0: {"x": 1.0}, 2: {"x": 2.0}})
  assert sweep.main([str(RECIPE), f"--output_dir={tmp_path}"]) == 1
  text = (tmp_path / "sweep.md").read_text()
  assert "Failed: docstring_sft seed 1 (code 2)" in text
  assert "| 1.5 |" in text


def test_a_dry_run_runs_nothing(sweep, runs, tmp_path, capsys):
  asked = runs({})
  sweep.main([str(RECIPE), f"--output_dir={tmp_path}/x", "--dry_run"])
  assert not asked and not (tmp_path / "x").exists()
  assert capsys.readouterr().out.count("rlaif_jax.main") == 3


def test_a_recipe_without_a_command(sweep, tmp_path):
  (tmp_path / "a.gin").write_text("x = 1\n")
  with pytest.raises(ValueError, match="no line '# Command"):
    sweep.main([str(tmp_path / "a.gin"), f"--output_dir={tmp_path}"])
