# SPDX-License-Identifier: Apache-2.0
"""Every job under every disturbance ends as if undisturbed, or says why not.

A disk that is full, a read-only folder, a second process, changed inputs, a
damaged checkpoint or model; `resume_test` kills. Moments, files and bytes are
drawn by the names of the case and RLAIF_CHAOS_SEED. At night alone, but for
one job.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pathlib
import platform
import random
import shutil
import signal
import subprocess
import sys
import time
from typing import Callable, Iterator

import pytest

from tests import testing
from tests.e2e import resume_test
from tests.e2e import stages

FULL = os.strerror(errno.ENOSPC)
PAGE = 4096  # bytes; a file system in memory has whole pages
ALWAYS_RERUN = ("reported",)
TRAINED = "sft reward dpo policy direct ensemble online".split()
NAMES = "sft pairs humans labels reward dpo policy direct ensemble online"
NAMES += " single policy_single converted corrupted weighted perplexity scores"
NAMES += " compared judges evaluated reported"
# Rows (stage, disturbance, result, seconds) of the table that ends the tests.
RESULTS: list[tuple[str, str, str, float]] = []


class Case:
  """A stage, and a run of it in a folder of its own that is disturbed."""

  def __init__(self, world: resume_test.World, name: str, kind: str):
    self.world, self.name = world, name
    self.job, recipe, self.bindings, self.watched, self.lines = stages.every(
      world
    )[name]
    self.run = f"{name}_{kind.replace(' ', '_')}"
    self.folder = world.root / self.run
    self.draw = random.Random(
      f"{self.run} {os.environ.get('RLAIF_CHAOS_SEED', 0)}"
    )
    self.command = world.command(self.job, self.run, recipe, **self.bindings)
    stages.make(world, name)

  def paths(self) -> list[pathlib.Path]:
    return [p for p in self.bindings.values() if isinstance(p, pathlib.Path)]

  def fails(self, *expected: str) -> None:
    """Checks that the command stops with an error that says all of this."""
    process = self.world.start(self.command)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 2, output
    error = output[output.find("error: ") :]
    assert error.startswith("error: "), output
    # Orbax's threads print their own if they cannot write.
    assert "Traceback" not in output or FULL in expected, output
    for text in expected:
      assert text in error, f"{text!r} is not in:\n{output}"

  def ends_the_same(self) -> str:
    """Checks that the command ends with the undisturbed files."""
    output = self.world.finish(self.command)
    self.is_the_same()
    return output

  def is_the_same(self) -> None:
    whole, now = (self.world.contents(run) for run in (self.name, self.run))
    for files in (whole, now):
      for name in ("cells.jsonl", "seconds.jsonl"):  # Times.
        files.pop(name, None)
    assert set(whole) == set(now)
    for key, value in whole.items():
      assert value == now[key], f"{key} differs from the undisturbed run's"

  def interrupt(self, is_time: Callable[[], bool] | None = None) -> None:
    """Kills the command at a moment; a short job may end before it."""
    process = self.world.start(self.command)
    is_time = is_time or self.has_begun
    begin = time.monotonic()
    while process.poll() is None and not is_time():
      assert time.monotonic() - begin < 240
      time.sleep(0.002)
    process.kill()
    output = process.communicate()[0]
    assert process.returncode in (0, -signal.SIGKILL), output

  def has_begun(self) -> bool:
    """Whether the run has its inputs and as many results as a kill needs."""
    if self.watched is None:
      path = self.folder / "inputs.json"
      return path.exists() and b"sha256" in path.read_bytes()
    path = self.folder / self.watched
    return path.exists() and path.read_bytes().count(b"\n") >= self.lines[-1]

  def trained(self) -> pathlib.Path:
    """Returns the folder of the run, or of its last round, with checkpoints."""
    found = sorted(self.folder.glob("round_*/dpo/checkpoints"))
    return found[-1].parent if found else self.folder

  def steps(self, folder: pathlib.Path | None = None) -> list[int]:
    """Returns the steps that have a checkpoint, oldest first."""
    names = [
      p.name for p in ((folder or self.folder) / "checkpoints").glob("*")
    ]
    return sorted(int(name) for name in names if name.isdecimal())


@contextlib.contextmanager
def mounted(folder: pathlib.Path) -> Iterator[Callable[[str], None]]:
  """Mounts memory at a folder; yields what sets "size=BYTES", "ro" or "rw"."""
  folder.mkdir()
  begin = ["mount", "-t", "tmpfs", "-o"]
  done = subprocess.run(
    [*begin, "size=256m", "chaos", folder], capture_output=True, text=True
  )
  if done.returncode:
    pytest.skip(f"file systems cannot be mounted here: {done.stderr.strip()}")
  try:
    yield lambda options: subprocess.run(
      ["mount", "-o", f"remount,{options}", folder], check=True
    )
  finally:
    subprocess.run(["umount", "-l", folder], check=True)


def flip(path: pathlib.Path, draw: random.Random, every: int = 1 << 30) -> None:
  """Flips a random bit in each block of a file.

  Orbax leaves bytes in its files that it does not read again, up to a half.
  """
  data = bytearray(path.read_bytes())
  for begin in range(0, len(data), every):
    place = draw.randrange(begin, min(begin + every, len(data)))
    data[place] ^= 1 << draw.randrange(8)
  path.write_bytes(data)


def full_disk(case: Case) -> None:
  """Fails at two sizes of the disk, and loses no finished checkpoint."""
  files = (case.world.root / case.name).rglob("*")
  pages = sum(-(-p.stat().st_size // PAGE) for p in files if p.is_file())
  sizes = sorted(case.draw.randint(1, pages - 1) for _ in range(2))
  with mounted(case.folder) as remount:
    before: list[int] = []
    for size in sizes:
      remount(f"size={size * PAGE}")
      case.fails(FULL, str(case.folder))
      assert max(case.steps(), default=0) >= max(before, default=0)
      before = case.steps()
    remount("size=256m")
    kept = {s: (case.folder / f"checkpoints/{s}").stat().st_ino for s in before}
    case.ends_the_same()
    for step in set(case.steps()) & set(kept):
      folder = case.folder / f"checkpoints/{step}"
      assert folder.stat().st_ino == kept[step], f"step {step} is written twice"


def read_only(case: Case) -> None:
  """Stops before it does anything; a finished run's result can be read."""
  with mounted(case.folder) as remount:
    if case.watched is not None:
      case.interrupt()
    remount("ro")
    case.fails("Read-only file system", str(case.folder))
    remount("rw")
    case.ends_the_same()
    remount("ro")
    if case.name not in ALWAYS_RERUN:
      assert "already done" in case.world.finish(case.command)


def second_process(case: Case) -> None:
  """Is refused while the first, which is stopped meanwhile, has the folder."""
  first = case.world.start(case.command)
  locks = case.folder.glob
  while first.poll() is None:
    if any(path.stat().st_size for path in locks(".lock.[0-9]*")):
      break
    time.sleep(0.002)
  first.send_signal(signal.SIGSTOP)
  try:
    case.fails(f"process {first.pid} on {platform.node()} since", "in use")
  finally:
    first.send_signal(signal.SIGCONT)
    output = first.communicate(timeout=300)[0]
  assert first.returncode == 0, output
  case.is_the_same()


def read_files(case: Case) -> list[pathlib.Path]:
  """Returns the files of rows, and the model.json of models, that it reads."""
  paths = {p / "model.json" if p.is_dir() else p for p in case.paths()}
  root = case.world.root
  for name in stages.READ.get(case.name, ()):
    paths |= {
      "judges": {root / "humans/labels.jsonl", root / "sft/model/model.json"},
    }.get(case.name, {root / name / "responses.jsonl"})
  return sorted(p for p in paths if p.exists())


def changed_inputs(case: Case) -> None:
  """Says which; accepts them if asked; resumes with the original ones.

  The change, a blank at the end, is one of the bytes but not of the content.
  """
  files = read_files(case)
  record = case.folder / "inputs.json"

  def has_read_all() -> bool:
    text = record.read_text() if record.exists() else ""
    return case.has_begun() and all(f'"{path}"' in text for path in files)

  case.interrupt(has_read_all)
  original = {path: path.read_bytes() for path in files}
  backup = case.folder.with_name(f"{case.run}_backup")
  shutil.copytree(case.folder, backup)
  try:
    for path, data in original.items():
      path.write_bytes(data.rstrip(b"\n") + b" \n")
    case.fails(*[f"{path}: " for path in files], "--accept_changes")
    case.command.append("--accept_changes")
    case.world.finish(case.command)
    stored = json.loads((case.folder / "inputs.json").read_text())
    listed = str([row["changes"] for row in stored["accepted"]])
    assert all(f"{path}: " in listed for path in files), listed
  finally:
    for path, data in original.items():
      path.write_bytes(data)
  case.command.remove("--accept_changes")
  shutil.rmtree(case.folder)
  backup.rename(case.folder)
  case.ends_the_same()


def damaged_checkpoint(case: Case) -> None:
  """Takes the one before, or what the flipped bit left whole."""
  case.interrupt(lambda: len(case.steps(case.trained())) > 1)
  trained = case.trained()
  step = case.steps(trained)[-1]
  folder = trained / "checkpoints" / str(step)
  files = sorted(p for p in folder.rglob("*") if p.is_file())
  largest = max(files, key=lambda p: p.stat().st_size)
  backup = case.folder.with_name(f"{case.run}_backup")
  shutil.copytree(case.folder, backup)
  for path, every in ((case.draw.choice(files), 1 << 30), (largest, 256)):
    flip(path, case.draw, every)
    output = case.ends_the_same()
    is_moved = (trained / "damaged_checkpoints" / str(step)).exists()
    assert is_moved or path != largest or every > 256
    said = f"the checkpoint of step {step} is damaged" in output
    assert said == is_moved, output
    shutil.rmtree(case.folder)
    shutil.copytree(backup, case.folder)


def damaged_model(case: Case) -> None:
  """Is not read: the largest file of each model in turn."""
  models = sorted(p for p in case.paths() if (p / "model.json").exists())
  for model in sorted(set(models)):
    files = [p for p in (model / "params").rglob("*") if p.is_file()]
    path = max(files, key=lambda p: p.stat().st_size)
    data = path.read_bytes()
    flip(path, case.draw, 256)
    try:
      case.fails(str(model))
    finally:
      path.write_bytes(data)
    assert not (case.folder / "result.json").exists()
  case.ends_the_same()


HAVE_NO_MODEL = "sft humans corrupted compared judges evaluated reported"
TABLE: dict[str, tuple[Callable[[Case], None], list[str]]] = {
  "full disk": (full_disk, NAMES.split()),
  "read-only": (read_only, NAMES.split()),
  "second process": (second_process, NAMES.split()),
  "changed inputs": (
    changed_inputs,
    [n for n in NAMES.split() if n not in ALWAYS_RERUN],
  ),
  "damaged checkpoint": (damaged_checkpoint, TRAINED),
  "damaged model": (
    damaged_model,
    [n for n in NAMES.split() if n not in HAVE_NO_MODEL.split()],
  ),
}
CHEAP = ("corrupted", "second process")
CASES = [
  pytest.param(
    name,
    kind,
    marks=[] if (name, kind) == CHEAP else testing.AT_NIGHT,
  )
  for name in NAMES.split()
  for kind, (_, names) in TABLE.items()
  if name in names
]


@pytest.fixture(scope="module")
def world(tmp_path_factory, request):
  """The world; prints the table at the end, of each worker of pytest-xdist."""
  yield resume_test.World(tmp_path_factory.mktemp("chaos"))
  capture = request.config.pluginmanager.getplugin("capturemanager")
  with capture.global_and_fixture_disabled():
    for name, kind, result, seconds in RESULTS:
      line = f"{name:14} {kind:19} {result:8} {seconds:6.1f} s"
      print(line, file=sys.stderr, flush=True)


@pytest.mark.parametrize("name, kind", CASES)
def test_disturbed_it_ends_the_same_or_says_why_not(world, name, kind):
  begin, result = time.monotonic(), "FAILED"
  try:
    TABLE[kind][0](Case(world, name, kind))
    result = "passed"
  except pytest.skip.Exception:
    result = "skipped"
    raise
  finally:
    RESULTS.append((name, kind, result, time.monotonic() - begin))
