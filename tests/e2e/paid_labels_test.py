# SPDX-License-Identifier: Apache-2.0
"""The label job at an endpoint, killed or shared: nothing lost or double.

A real server that misbehaves; each answer costs money. What is killed is a real
process, what ends runs here.
"""

from __future__ import annotations

import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

from rlaif_jax import main
from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from tests import testing
from tests.labeling import faulty_server as fs

ROOT = pathlib.Path(__file__).parents[2]
PAIRS = 300
KILLS = 20 if testing.IS_NIGHT else 3
# Requests up to a kill. Few kills come late: what they lost would show.
BEFORE = (2, 24) if testing.IS_NIGHT else (40, 90)
AT_ONCE = 4
KEY = "sk-canary-0123456789"


def command(tmp_path, server, out, *more):
  settings = {
    "model": "m",
    "base_url": server.url,
    "max_concurrency": AT_ONCE,
    "timeout_seconds": 5.0,
    "first_backoff_seconds": 0.01,
    "max_backoff_seconds": 0.1,
    "max_retries": 10,
  }
  return [
    sys.executable,
    "-m",
    "rlaif_jax.main",
    "--job=label",
    "--gin.label.judge=@PairwiseJudgeConfig()",
    "--gin.LabelerConfig.endpoint=@EndpointConfig()",
    *(f"--gin.EndpointConfig.{k}={v}" for k, v in settings.items()),
    f"--pairs_file={tmp_path / 'pairs.jsonl'}",
    "--chunk_size=50",
    f"--output_dir={tmp_path / out}",
    *more,
  ]


def start(arguments):
  environment = {**os.environ, "JAX_PLATFORMS": "cpu", "OPENAI_API_KEY": KEY}
  return subprocess.Popen(
    arguments,
    cwd=ROOT,
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


@pytest.fixture
def finish(monkeypatch, capfd):
  """Runs a command in this process, which is many times faster."""
  monkeypatch.setenv("OPENAI_API_KEY", KEY)

  def run(arguments):
    code = main.main(arguments[3:])
    output = "".join(capfd.readouterr())
    assert code == 0, output
    assert KEY not in output

  return run


def kill_after(arguments, server, requests):
  """SIGKILL once the server has received this number of further requests."""
  until = server.received.total() + requests
  process = start(arguments)
  begin = time.monotonic()
  while process.poll() is None and time.monotonic() - begin < 120:
    if server.received.total() >= until:
      process.send_signal(signal.SIGKILL)
      break
    time.sleep(0.001)
  output = process.communicate()[0]
  assert process.returncode == -signal.SIGKILL, output


def test_kills_lose_nothing_and_pay_for_nothing_twice(tmp_path, finish):
  jsonl.write_records(tmp_path / "pairs.jsonl", fs.make_pairs(PAIRS))
  generator = random.Random(0)
  plan = fs.random_plan(0.1)
  with fs.FaultyServer(plan=plan, seconds=0.01, slow_seconds=6.0) as server:
    arguments = command(tmp_path, server, "killed")
    for _ in range(KILLS):
      kill_after(arguments, server, generator.randint(*BEFORE))
    finish(arguments)
    worked = server.worked.total()
    faults = sum(
      n for fault, n in server.faults.items() if fault not in fs.HARMLESS
    )
  labels = jsonl.read_records(
    records.Preference, tmp_path / "killed" / "labels.jsonl"
  )
  assert [row.id for row in labels] == [f"p{i}" for i in range(PAIRS)]
  # What was under way at a kill, or lost by a fault, may be billed again.
  assert worked <= 2 * PAIRS + KILLS * AT_ONCE + faults
  assert not (tmp_path / "killed" / "quarantine.jsonl").exists()
  with fs.FaultyServer() as server:
    finish(command(tmp_path, server, "whole"))
    assert server.worked.total() == 2 * PAIRS
  whole = jsonl.read_records(
    records.Preference, tmp_path / "whole" / "labels.jsonl"
  )
  for one, other in zip(labels, whole, strict=True):
    assert one.p_first == other.p_first and one.p_orders == other.p_orders
  for path in (tmp_path / "killed").rglob("*"):
    assert path.is_dir() or KEY.encode() not in path.read_bytes()


def test_three_processes_share_a_store_and_merging_asks_nothing(
  tmp_path, finish
):
  """One of them is killed on the way; who comes last only reads."""
  jsonl.write_records(tmp_path / "pairs.jsonl", fs.make_pairs(PAIRS))
  store = f"--store_dir={tmp_path / 'store'}"
  with fs.FaultyServer(seconds=0.01) as server:
    shards = [
      command(tmp_path, server, f"part{k}", f"--shard={k}/3", store)
      for k in range(3)
    ]
    others = [start(arguments) for arguments in shards[1:]]
    kill_after(shards[0], server, 60)
    for process in others:
      output = process.communicate(timeout=240)[0]
      assert process.returncode == 0, output
      assert KEY not in output
    finish(shards[0])
    asked = server.worked.total()
    assert 2 * PAIRS <= asked <= 2 * PAIRS + AT_ONCE
    finish(command(tmp_path, server, "merged", store))
    finish(command(tmp_path, server, "alone", "--chunk_size=300"))
    # Only the run with a store of its own has asked since.
    assert server.worked.total() == asked + 2 * PAIRS
  merged, alone = (
    jsonl.read_records(records.Preference, tmp_path / out / "labels.jsonl")
    for out in ("merged", "alone")
  )
  assert merged == alone
  assert [row.id for row in merged] == [f"p{i}" for i in range(PAIRS)]
  parts = [
    jsonl.read_records(records.Preference, tmp_path / f"part{k}/labels.jsonl")
    for k in range(3)
  ]
  assert sum(map(len, parts)) == PAIRS and all(parts)
