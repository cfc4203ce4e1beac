# SPDX-License-Identifier: Apache-2.0
"""A folder is locked while a job runs, and its inputs are the same again."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import types

import pytest

from rlaif_jax.cli import output_lock
from rlaif_jax.cli import run_folder
from rlaif_jax.core import inputs
from rlaif_jax.core import job_spec

PLAIN = job_spec.JobSpec()
RERUN = job_spec.JobSpec(always_rerun=True)


class Runs:
  """Runs that read rows.jsonl, in the folder `run`."""

  def __init__(self, root):
    self.rows, self.directory = root / "rows.jsonl", root / "run"
    self.rows.write_text("rows")

  def start(self, spec=PLAIN, *, end=True, processes=None, **options):
    folder = run_folder.RunFolder(self.directory, spec, **options)
    with contextlib.ExitStack() as stack:
      folder.open(stack, "x = 1\n", {"rows_file": str(self.rows)}, processes)
      if not folder.is_finished:
        inputs.note(self.rows)
      if end:
        folder.result.write_text("{}")

  def records(self):
    return json.loads((self.directory / "inputs.json").read_text())


@pytest.fixture
def runs(tmp_path):
  return Runs(tmp_path)


def test_a_run_is_claimed_recorded_and_unlocked(runs):
  runs.start()
  names = sorted(path.name for path in runs.directory.iterdir())
  assert names == ["config.gin", "inputs.json", "result.json"]
  assert list(runs.records()["files"]) == [str(runs.rows)]
  runs.start()


@pytest.mark.parametrize("end", [True, False])
def test_changed_inputs_stop_a_finished_and_an_unfinished_run(runs, end):
  runs.start(end=end)
  runs.rows.write_text("others")
  with pytest.raises(ValueError, match="rows.jsonl: sha256"):
    runs.start()
  runs.start(accept_changes=True, end=end)
  runs.start()
  assert len(runs.records()["accepted"]) == 1


def test_a_job_that_always_runs_reads_what_is_there(runs):
  runs.start(RERUN)
  runs.rows.write_text("others")
  runs.start(RERUN)
  (entry,) = runs.records()["files"].values()
  assert entry["bytes"] == len("others") and not runs.records()["accepted"]


def test_a_folder_in_use_is_refused_but_its_result_may_be_read(runs):
  with output_lock.hold(runs.directory):
    with pytest.raises(ValueError, match="in use by process"):
      runs.start()
  assert not (runs.directory / "config.gin").exists()
  runs.start()
  with output_lock.hold(runs.directory):
    runs.start()
    with pytest.raises(ValueError, match="in use by process"):
      runs.start(RERUN)
    with pytest.raises(ValueError, match="in use by process"):
      runs.start(accept_changes=True)  # It may write.


def test_a_foreign_folder_is_not_even_locked(runs, monkeypatch):
  runs.directory.mkdir()
  (runs.directory / "notes.txt").touch()
  monkeypatch.setattr(output_lock, "hold", None)
  with pytest.raises(ValueError, match="notes.txt"):
    runs.start()


def test_inputs_inside_the_folder_are_refused(runs):
  runs.rows = runs.directory / "rows.jsonl"
  with pytest.raises(ValueError, match="rows_file: .* is inside"):
    runs.start()
  assert not runs.directory.exists()


def group(*, is_writer, failed=0):
  """The module `engine.processes` in one of two processes."""
  told = []
  module = types.SimpleNamespace(told=told, is_writer=lambda: is_writer)
  module.sum_of_all = lambda counts: (
    told.append(counts) or {"failed": counts["failed"] + failed}
  )
  return module


def test_one_of_several_processes_opens_the_folder(runs):
  other = group(is_writer=False)
  runs.start(processes=other, end=False)
  assert other.told == [{"failed": 0}] and not runs.directory.exists()
  runs.start(processes=group(is_writer=True))
  assert (runs.directory / "config.gin").exists()


def test_all_processes_stop_if_the_writer_cannot_start(runs):
  with pytest.raises(ValueError, match="process 0 could not start"):
    runs.start(processes=group(is_writer=False, failed=1))
  writer = group(is_writer=True)
  with output_lock.hold(runs.directory):
    with pytest.raises(ValueError, match="in use by process"):
      runs.start(processes=writer)
  assert writer.told == [{"failed": 1}]


@pytest.mark.parametrize(
  "error, is_told",
  [
    (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), True),
    (ValueError(f"orbax: {os.strerror(errno.ENOSPC)} [28]"), True),
    (ValueError("rows_file is missing"), False),
  ],
)
def test_a_full_disk_is_told_with_its_folder(runs, monkeypatch, error, is_told):
  def fail(*_):
    raise error

  monkeypatch.setattr(inputs, "note", fail)
  with pytest.raises(type(error)) as caught:
    runs.start()
  notes = getattr(caught.value, "__notes__", [])
  assert len(notes) == is_told
  assert all(f"make room for --output_dir {runs.directory}" in n for n in notes)
