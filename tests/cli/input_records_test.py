# SPDX-License-Identifier: Apache-2.0
"""A run remembers what it has read, and notices when that changes."""

from __future__ import annotations

import hashlib
import json
import os
import threading

import pytest

from rlaif_jax.cli import input_records
from rlaif_jax.text import template_files


@pytest.fixture
def run(tmp_path):
  """The folder of a run that has read a.txt and b.txt."""
  for name in ("a.txt", "b.txt"):
    (tmp_path / name).write_text(name)
  recorder = input_records.Recorder(tmp_path / "run")
  recorder.start()
  recorder.note(tmp_path / "a.txt")
  recorder.note(tmp_path / "b.txt")
  return tmp_path / "run"


def stored(run):
  return json.loads((run / "inputs.json").read_text())


def again(run, is_finished=False, **options):
  recorder = input_records.Recorder(run, **options)
  recorder.check(is_finished=is_finished)
  return recorder


def rewrite(path, text, seconds=0):
  """Changes a file; the time of its last change is that many seconds later."""
  time = path.stat().st_mtime_ns
  path.write_text(text)
  os.utime(path, ns=(time, time + seconds * 10**9))


def test_files_and_versions_are_stored_before_anything_is_done(run, tmp_path):
  row = stored(run)
  path = str(tmp_path / "a.txt")
  assert row["files"][path] == {
    "bytes": 5,
    "mtime_ns": (tmp_path / "a.txt").stat().st_mtime_ns,
    "sha256": hashlib.sha256(b"a.txt").hexdigest(),
  }
  assert len(row["files"]) == 2 and row["accepted"] == []
  assert {"python", "jax", "jaxlib", "numpy", "flax"} <= set(row["versions"])
  before = (run / "inputs.json").read_bytes()
  again(run).note(path)
  assert (run / "inputs.json").read_bytes() == before


def test_nothing_is_stored_for_a_run_that_reads_nothing_but_versions(tmp_path):
  input_records.Recorder(tmp_path).start()
  assert stored(tmp_path)["files"] == {}
  assert stored(tmp_path)["versions"] == input_records.installed()


@pytest.mark.parametrize("is_finished", [False, True])
def test_changed_and_missing_files_are_listed(run, tmp_path, is_finished):
  rewrite(tmp_path / "a.txt", "A.txt", seconds=1)
  (tmp_path / "b.txt").unlink()
  before = (run / "inputs.json").read_bytes()
  with pytest.raises(ValueError) as error:
    again(run, is_finished)
  old, new = (hashlib.sha256(t).hexdigest()[:8] for t in (b"a.txt", b"A.txt"))
  assert f"{tmp_path}/a.txt: sha256 {old} -> {new}\n" in str(error.value)
  assert f"{tmp_path}/b.txt: missing\n" in str(error.value)
  assert "another --output_dir" in str(error.value)
  assert "--accept_changes" in str(error.value)
  assert (run / "inputs.json").read_bytes() == before


def test_the_same_content_of_another_time_is_no_change(run, tmp_path):
  rewrite(tmp_path / "a.txt", "a.txt", seconds=5)
  again(run)


def test_files_of_the_same_size_and_time_are_not_hashed(
  run, tmp_path, monkeypatch
):
  hashed = []
  monkeypatch.setattr(input_records, "hash_of", hashed.append)
  again(run).note(tmp_path / "a.txt")
  assert not hashed


def test_the_hash_of_a_large_file_is_announced(tmp_path, monkeypatch, capsys):
  (tmp_path / "x").write_bytes(b"x" * 9)
  for large, said in ((9, ""), (8, f"hashing {tmp_path / 'x'} (0 GB)\n")):
    monkeypatch.setattr(input_records, "_LARGE", large)
    input_records.hash_of(str(tmp_path / "x"))
    assert capsys.readouterr().out == said


def test_accepted_changes_are_written_down_and_then_known(run, tmp_path):
  rewrite(tmp_path / "a.txt", "longer")
  (tmp_path / "b.txt").unlink()
  again(run, accept=True)
  row = stored(run)
  (accepted,) = row["accepted"]
  assert [line.split(": ")[0] for line in accepted["changes"]] == [
    str(tmp_path / "a.txt"),
    str(tmp_path / "b.txt"),
  ]
  assert accepted["date"].startswith("20")
  assert list(row["files"]) == [str(tmp_path / "a.txt")]
  again(run)
  assert stored(run) == row


def test_versions_matter_until_the_run_is_finished(run, monkeypatch):
  now = {**input_records.installed(), "jax": "0.4.35"}
  now.pop("optax")
  before = stored(run)["versions"]
  monkeypatch.setattr(input_records, "installed", lambda: dict(now))
  again(run, is_finished=True)
  with pytest.raises(ValueError) as error:
    again(run)
  assert f"jax: {before['jax']} -> 0.4.35\n" in str(error.value)
  assert f"optax: {before['optax']} -> none\n" in str(error.value)
  again(run, accept=True)
  assert stored(run)["versions"] == now
  again(run)


def test_a_file_that_changes_while_the_run_reads_it(run, tmp_path):
  recorder = again(run)
  recorder.note(tmp_path / "a.txt")
  rewrite(tmp_path / "a.txt", "longer")
  for _ in range(2):  # A reader may take the first error for a bad file.
    with pytest.raises(ValueError, match="a.txt: sha256"):
      recorder.note(tmp_path / "a.txt")
  accepting = input_records.Recorder(run, accept=True)
  accepting.note(tmp_path / "a.txt")
  assert len(stored(run)["accepted"]) == 1


def test_own_files_folders_and_missing_ones_are_no_inputs(run, tmp_path):
  recorder = again(run)
  before = stored(run)
  (run / "own.txt").write_text("x")
  (tmp_path / "link").symlink_to(run / "own.txt")
  for path in (run / "own.txt", tmp_path / "link", tmp_path, tmp_path / "no"):
    recorder.note(path)
  assert stored(run) == before
  (tmp_path / "run2").mkdir()  # Its name begins like that of the run.
  (tmp_path / "run2" / "c.txt").write_text("c")
  recorder.note(tmp_path / "run2" / "c.txt")
  assert len(stored(run)["files"]) == 3


def test_paths_are_absolute(run, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "c.txt").write_text("c")
  again(run).note("c.txt")
  assert str(tmp_path / "c.txt") in stored(run)["files"]


def test_files_of_the_package_are_named_relative_to_it(run):
  path = template_files.TEMPLATES / "summary_base.toml"
  again(run).note(path)
  (key,) = [key for key in stored(run)["files"] if not os.path.isabs(key)]
  assert key == "rlaif_jax/text/templates/summary_base.toml"
  assert input_records.location(key) == str(path)
  again(run)


def test_notes_of_threads(tmp_path):
  recorder = input_records.Recorder(tmp_path / "run")
  files = [tmp_path / f"{i}.txt" for i in range(20)]
  for file in files:
    file.write_text(file.name)
  threads = [threading.Thread(target=recorder.note, args=[f]) for f in files]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert len(stored(tmp_path / "run")["files"]) == 20


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": 3}'])
def test_damaged_records_are_an_error(run, text):
  (run / "inputs.json").write_text(text)
  with pytest.raises(ValueError, match="inputs.json is damaged"):
    input_records.Recorder(run)
  input_records.Recorder(run, resume=False)
