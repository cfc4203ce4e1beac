# SPDX-License-Identifier: Apache-2.0
"""Several processes do what one does: real ones, over loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time

import jax
import numpy as np
import pytest

from rlaif_jax.engine import checkpoint
from tests import testing
from tests import xla_flags
from tests.e2e import resume_test
from tests.e2e import stages
from tests.engine import processes_test

ROOT = resume_test.ROOT
_DEVICES = "--xla_force_host_platform_device_count"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  return resume_test.World(tmp_path_factory.mktemp("processes"))


def start(world, command, count, index=0, port=0, devices=1):
  environment = {
    **os.environ,
    "JAX_PLATFORMS": "cpu",
    "PYTHONFAULTHANDLER": "1",
    "XLA_FLAGS": f"{xla_flags.QUICK} {_DEVICES}={devices}",
  }
  if count > 1:
    environment |= {
      "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
      "JAX_NUM_PROCESSES": str(count),
      "JAX_PROCESS_ID": str(index),
    }
  return subprocess.Popen(
    command,
    cwd=ROOT,
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def start_all(world, command, count, devices=1):
  port = processes_test.free_port()
  return [start(world, command, count, i, port, devices) for i in range(count)]


def outputs(processes, seconds=400):
  """Returns what each says; the stacks of all if one does not end in time."""
  # Longer than their own timeout, which names the missing processes.
  end = time.monotonic() + seconds
  for process in processes:
    try:
      process.wait(max(1, end - time.monotonic()))
    except subprocess.TimeoutExpired:
      for each in processes:
        each.send_signal(signal.SIGABRT)
      stacks = [each.communicate()[0] for each in processes]
      raise AssertionError("\n\n".join(stacks)) from None
  return [process.communicate()[0] for process in processes]


def finish(processes):
  said = outputs(processes)
  for process, text in zip(processes, said, strict=True):
    assert process.returncode == 0, text
  return said


def numbers(path):
  return [
    sorted(json.loads(line).items()) for line in path.read_text().splitlines()
  ]


def params(directory):
  """The finished model's parameters, whatever mesh it was saved on."""
  here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  with checkpoint._checkpointer({"x": np.zeros(1)}) as reader:
    stored = checkpoint._metadata(reader, directory.absolute() / "params")
  like = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here),
    stored,
  )
  return checkpoint.load_params(directory, like)


def check_same(world, one, other):
  for name in ("metrics.jsonl", "evaluations.jsonl"):
    path = world.root / one / name
    if path.exists():
      for a, b in zip(
        numbers(path), numbers(world.root / other / name), strict=True
      ):
        for (key, x), (same, y) in zip(a, b, strict=True):
          assert key == same and x == pytest.approx(y, abs=2e-5, rel=1e-4)
  a, b = (
    jax.tree.leaves(params(world.root / n / "model")) for n in (one, other)
  )
  for x, y in zip(a, b, strict=True):
    np.testing.assert_allclose(x, y, atol=1e-5)


def test_two_processes_train_what_one_does(world):
  job, recipe, bindings, _, _ = stages.of(world)["sft"]
  recipe += 'ComputeConfig.mesh = "fsdp:2"\n'
  finish(
    [start(world, world.command(job, "sft", recipe, **bindings), 1, devices=2)]
  )
  said = finish(
    start_all(world, world.command(job, "sft2", recipe, **bindings), 2)
  )
  check_same(world, "sft", "sft2")
  # One of them writes and speaks.
  assert sum("validation_response_nll" in text for text in said) == 1


@pytest.fixture(scope="module")
def pipeline(world):
  """Pairs, labels and a reward model, by one process; and SFT."""
  stages.make(world, "pairs", "labels", "reward")
  return stages.of(world)


@pytest.mark.parametrize(
  "name, mesh, count, devices",
  [
    pytest.param("reward", "fsdp:2", 2, 1, marks=testing.AT_NIGHT),
    ("dpo", "data:2", 2, 1),
    ("policy", "fsdp:2,model:2", 2, 2),
    pytest.param("policy", "fsdp:2,model:2", 4, 1, marks=testing.AT_NIGHT),
    pytest.param("direct", "data:2", 2, 1, marks=testing.AT_NIGHT),
    pytest.param("ensemble", "fsdp:2", 2, 1, marks=testing.AT_NIGHT),
    pytest.param("online", "fsdp:2", 2, 1, marks=testing.AT_NIGHT),
  ],
)
def test_the_other_trainings_agree_too(
  world, pipeline, name, mesh, count, devices
):
  job, recipe, bindings, _, _ = pipeline[name]
  recipe += f'ComputeConfig.mesh = "{mesh}"\n'
  one, many = f"{name}_one", f"{name}_{count}"
  command = world.command(job, one, recipe, **bindings)
  finish([start(world, command, 1, devices=count * devices)])
  command = world.command(job, many, recipe, **bindings)
  finish(start_all(world, command, count, devices))
  check_same(world, one, many)


def test_two_processes_sample_what_one_does(world, pipeline):
  job, recipe, bindings, _, _ = pipeline["pairs"]
  recipe += f'{job}.mesh = "fsdp:2"\n'
  command = world.command(job, "pairs_many", recipe, **bindings)
  finish(start_all(world, command, 2))
  for name in ("responses.jsonl", "pairs.jsonl"):
    rows, expected = (
      [json.loads(line) for line in (folder / name).read_text().splitlines()]
      for folder in (world.root / "pairs_many", world.root / "pairs")
    )
    for row, one in zip(rows, expected, strict=True):
      for key in ("log_prob", "ref_log_prob"):
        if key in one:
          assert row.pop(key) == pytest.approx(one.pop(key), abs=1e-3)
      assert row == one


def wait_for_lines(path, lines):
  begin = time.monotonic()
  while time.monotonic() - begin < 120:
    if path.exists() and path.read_bytes().count(b"\n") >= lines:
      return
    time.sleep(0.01)
  raise AssertionError(f"{path} has no {lines} lines")


def test_a_lost_process_ends_the_other_and_all_go_on_from_there(world):
  job, recipe, bindings, _, _ = stages.of(world)["sft"]
  recipe = recipe.replace("num_steps = 8", "num_steps = 60")
  recipe = recipe.replace("save_every = 2", "save_every = 4")
  whole = world.command(job, "long", recipe, **bindings)
  finish([start(world, whole, 1, devices=2)])
  command = world.command(job, "lost", recipe, **bindings)
  first, second = start_all(world, command, 2)
  wait_for_lines(world.root / "lost" / "metrics.jsonl", 6)
  second.send_signal(signal.SIGKILL)
  begin = time.monotonic()
  said = first.communicate(timeout=60)[0]
  second.communicate()
  assert time.monotonic() - begin < 60
  assert first.returncode == 1, said
  assert "process 0 of 2 has lost another one" in said
  assert "the same command on all hosts resumes" in said
  # A polite stop, asked of one of them, is kept by both.
  first, second = start_all(world, command, 2)
  wait_for_lines(world.root / "lost" / "metrics.jsonl", 20)
  second.send_signal(signal.SIGTERM)
  for process in (first, second):
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 75, said
  # Its checkpoint is damaged: both take the one before.
  folder = world.root / "lost" / "checkpoints"
  newest = max(folder.iterdir(), key=lambda path: int(path.name))
  files = [path for path in newest.rglob("d/*") if path.is_file()]
  os.truncate(max(files, key=lambda path: path.stat().st_size), 99)
  said = finish(start_all(world, command, 2))
  assert sum(f"step {newest.name} is damaged" in text for text in said) == 1
  check_same(world, "long", "lost")


@pytest.mark.parametrize("bad", [0, 1])
def test_an_error_of_one_process_ends_the_other(world, bad):
  job, recipe, bindings, _, _ = stages.of(world)["sft"]
  right = world.command(job, f"error{bad}", recipe, **bindings)
  wrong = [word.replace("examples.jsonl", "none.jsonl") for word in right]
  port = processes_test.free_port()
  both = [
    start(world, wrong if i == bad else right, 2, i, port) for i in range(2)
  ]
  # JAX alone waits 300 s.
  said = outputs(both, seconds=120)
  assert both[bad].returncode == 2 and "none.jsonl" in said[bad]
  assert both[1 - bad].returncode not in (0, 2)


def test_jobs_of_one_process_say_so(world):
  command = world.command("report", "report", "", report__runs_dir=world.root)
  process = start(world, command, 2, 0, processes_test.free_port())
  said = process.communicate(timeout=60)[0]
  assert process.returncode == 2 and "report runs in one process" in said
