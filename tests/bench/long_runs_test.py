# SPDX-License-Identifier: Apache-2.0
"""Long runs: a leak is found, a failed run shows its output."""

from __future__ import annotations

import sys

import pytest

from rlaif_jax.bench import long_runs
from rlaif_jax.cli import configuration
from rlaif_jax.cli import job_table
from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.engine import mesh
from rlaif_jax.model_io import pretrained

# Opens a file per step and prints a line.
LEAK = """
import json, pathlib, sys, time
output = pathlib.Path(sys.argv[1])
output.mkdir()
kept = []
with open(output / "metrics.jsonl", "w") as f:
  for step in range(1, 41):
    kept.append(open(output / f"{step}.txt", "w"))
    print("x" * 99, file=f)
    print(json.dumps({"step": step}), file=f, flush=True)
    print("y" * 999, flush=True)
    time.sleep(0.06)
"""


def test_a_leak_of_files_output_and_disk_is_found(tmp_path):
  output = tmp_path / "run"
  command = [sys.executable, "-c", LEAK, str(output)]
  rows = long_runs.watch("train_policy", 40, output, command)
  assert 5 <= len(rows) <= 10
  assert [row["done"] for row in rows] == sorted({row["done"] for row in rows})
  found = long_runs.growth(rows, 1)
  # An observation comes up to one step after its count.
  assert found["open_files"] == pytest.approx(1, rel=0.3)
  assert found["log_kb"] == pytest.approx(1, rel=0.3)
  assert found["threads"] == 0 and rows[0]["memory_mb"] > 1


def test_a_failed_run_shows_its_output(tmp_path):
  command = [sys.executable, "-c", "raise SystemExit('no model')"]
  with pytest.raises(RuntimeError, match="no model"):
    long_runs.watch("label", 10, tmp_path / "run", command)


def test_the_inputs_are_those_that_the_jobs_read(tmp_path):
  inputs = tmp_path / "inputs"
  long_runs.make_inputs(inputs, 20)
  pairs = jsonl.read_records(records.Pair, inputs / "pairs.jsonl")
  assert len({(p.context, p.first, p.second) for p in pairs}) == 20
  devices = mesh.make_mesh("data:-1")
  for name, kind in (("policy", "language"), ("reward", "scalar")):
    assert pretrained.load(str(inputs / name), kind, devices).kind == kind
  jobs = job_table.load_all()
  for run in long_runs.FLAGS:
    command = long_runs.command_of(run, 8, inputs, tmp_path / run)
    for flag in command[4:-1]:
      name = flag.removeprefix("--gin.").partition("=")[0]
      target, field = name.split(".")
      known = configuration.targets_of(jobs)[target]
      assert field in configuration.parameters_of(known), flag
