# SPDX-License-Identifier: Apache-2.0
"""Every job, killed with SIGKILL and started again, ends with identical files.

Real processes on a tiny world: the command line, gin, data, all jobs.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

from tests import tiny_world as tiny
from tests import xla_flags
from tests.e2e import stages

ROOT = pathlib.Path(__file__).parents[2]
# Runs commands in one process, which imports and compiles once.
_ALL = """
import json, sys
from rlaif_jax import main
for command in json.loads(sys.argv[1]):
  if code := main.main(command):
    sys.exit(code)
"""


class World:
  """A directory with data, recipes and the runs so far."""

  def __init__(self, root: pathlib.Path):
    self.root = root
    tiny.write_corpus(
      root / "examples.jsonl", root / "data" / "tokenizer.model"
    )

  def command(self, job: str, run: str, recipe: str, **bindings: str):
    path = self.root / f"{run}.gin"
    path.write_text(recipe)
    extra = [f"--gin.{k.replace('__', '.')}={v}" for k, v in bindings.items()]
    return [
      sys.executable,
      "-m",
      "rlaif_jax.main",
      f"--job={job}",
      f"--gin_file={path}",
      f"--output_dir={self.root / run}",
      *extra,
    ]

  def start(self, command) -> subprocess.Popen:
    environment = {
      **os.environ,
      "JAX_PLATFORMS": "cpu",
      "XLA_FLAGS": xla_flags.QUICK,  # One device.
    }
    return subprocess.Popen(
      command,
      cwd=ROOT,
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )

  def finish(self, command) -> str:
    process = self.start(command)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    return output

  def finish_all(self, commands) -> None:
    flags = [command[3:] for command in commands]
    self.finish([sys.executable, "-c", _ALL, json.dumps(flags)])

  def kill(self, command, watched: str, lines: int) -> None:
    """Kills the process once a file has that many lines."""
    process = self.start(command)
    path = self.root / watched
    begin = time.monotonic()
    while process.poll() is None and time.monotonic() - begin < 240:
      if path.exists() and path.read_bytes().count(b"\n") >= lines:
        process.send_signal(signal.SIGKILL)
        break
      time.sleep(0.005)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it ended before the kill"

  def contents(self, run: str) -> dict[str, str]:
    """Returns what must not differ: files by name, and the model's hash."""
    result = {}
    for path in sorted((self.root / run).rglob("*")):
      name = str(path.relative_to(self.root / run))
      if path.name == "model.json":
        result[name] = path.read_text()
      elif path.suffix == ".safetensors":
        result[name] = hashlib.sha256(path.read_bytes()).hexdigest()
      elif path.suffix == ".jsonl" and "partial" not in name:
        result[name] = path.read_text().replace(f"{self.root / run}/", "")
    text = (self.root / run / "result.json").read_text()
    summary = json.loads(text.replace(f"{self.root / run}/", ""))
    del summary["next"]
    summary.pop("runs", None)  # A report lists what else there is.
    result["result"] = json.dumps(without_times(summary), sort_keys=True)
    return result


def without_times(value):
  if isinstance(value, list):
    return [without_times(part) for part in value]
  if not isinstance(value, dict):
    return value
  return {
    name: without_times(part)
    for name, part in value.items()
    if not name.startswith("seconds")
  }


# The last three are killed at night alone (and by tests of their jobs, within
# one process).
STAGES = ["sft", "pairs", "humans", "labels", "reward", "dpo", "policy"]
STAGES += ["direct", "ensemble", "online"]
BY_DAY = STAGES[:-3]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  """The world, with the undisturbed runs of what is killed by day.

  They come first, so that a kill tears no program in the cache.
  """
  world = World(tmp_path_factory.mktemp("world"))
  stages.make(world, *BY_DAY)
  return world


@pytest.mark.parametrize("name", BY_DAY)
def test_killed_and_resumed_ends_the_same(world, name):
  job, recipe, bindings, watched, points = stages.of(world)[name]
  whole = world.contents(name)
  if watched is None:
    return
  broken = f"{name}_killed"
  command = world.command(job, broken, recipe, **bindings)
  for lines in points:
    world.kill(command, f"{broken}/{watched}", lines)
  assert "next" in world.finish(command)
  resumed = world.contents(broken)
  assert set(whole) == set(resumed)
  for key, value in whole.items():
    assert value == resumed[key], f"{key} differs after kill and resume"


KILLS = int(os.environ.get("RLAIF_KILLS", "0"))


@pytest.mark.skipif(not KILLS, reason="RLAIF_KILLS is 0; launch/nightly.sh")
@pytest.mark.parametrize("name", [s for s in STAGES if s != "humans"])
def test_killed_at_any_moment_it_ends_the_same(world, name):
  """So often, at moments drawn over a whole run, wherever that is."""
  stages.make(world, name)
  job, recipe, bindings, _, _ = stages.of(world)[name]
  draw = random.Random(name)
  begin = time.monotonic()
  world.finish(world.command(job, f"{name}_timed", recipe, **bindings))
  seconds = time.monotonic() - begin
  whole, kills, copies = world.contents(name), 0, 0
  while kills < KILLS:
    copies += 1
    run = f"{name}_any{copies}"
    command = world.command(job, run, recipe, **bindings)
    while kills < KILLS:
      process = world.start(command)
      try:
        output, _ = process.communicate(timeout=draw.uniform(0, seconds))
        assert process.returncode == 0, output
        break
      except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        kills += 1
    world.finish(command)
    assert world.contents(run) == whole


def test_sigterm_saves_and_exits_with_its_own_code(world):
  _, recipe, bindings, _, _ = stages.of(world)["sft"]
  recipe = recipe.replace("num_steps = 8", "num_steps = 2000")
  recipe = recipe.replace("save_every = 2", "save_every = 5000")
  command = world.command("train_sft", "stopped", recipe, **bindings)
  process = world.start(command)
  path = world.root / "stopped" / "metrics.jsonl"
  begin = time.monotonic()
  while process.poll() is None and time.monotonic() - begin < 240:
    if path.exists() and path.read_bytes().count(b"\n") >= 3:
      process.send_signal(signal.SIGTERM)
      break
    time.sleep(0.005)
  output = process.communicate(timeout=120)[0]
  assert process.returncode == 75, output
  assert "Resume with" in output or "continue" in output
  saved = [p.name for p in (world.root / "stopped/checkpoints").iterdir()]
  assert any(name.isdigit() and int(name) >= 3 for name in saved)
