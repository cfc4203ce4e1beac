# SPDX-License-Identifier: Apache-2.0
"""A folder is replaced whole or not at all, and only by who wrote it."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

from rlaif_jax.core import folders

ROOT = pathlib.Path(__file__).parents[2]


def write(target, text, name="weights"):
  with folders.replaced(target) as partial:
    (partial / name).write_text(text)


def contents(folder):
  return {
    path.relative_to(folder).as_posix(): path.read_text()
    for path in sorted(folder.rglob("*"))
    if path.is_file() and path.name != folders.MARK
  }


def test_a_folder_is_written_and_replaced(tmp_path):
  target = tmp_path / "deep" / "model"
  write(target, "old", name="first")
  write(target, "new")
  assert contents(tmp_path) == {"deep/model/weights": "new"}
  assert os.listdir(target.parent) == ["model"]


def test_an_empty_folder_may_be_there(tmp_path):
  (tmp_path / "model").mkdir()
  write(tmp_path / "model", "new")
  assert contents(tmp_path) == {"model/weights": "new"}


def test_a_model_of_an_earlier_version_is_replaced(tmp_path):
  (tmp_path / "model").mkdir()
  (tmp_path / "model" / "model.json").write_text("{}")
  write(tmp_path / "model", "new")
  assert contents(tmp_path) == {"model/weights": "new"}


def foreign_file(target):
  target.write_text("mine")


def foreign_folder(target):
  target.mkdir()
  for name in ("a", "b", "c", "d"):
    (target / name).write_text("mine")


def foreign_link(target):
  write(target.with_name("other"), "mine")
  target.symlink_to(target.with_name("other"))


def file_added(target):
  write(target, "old")
  (target / "notes.txt").write_text("mine")


def damaged_list(target):
  write(target, "old")
  (target / folders.MARK).write_text("[]")


@pytest.mark.parametrize(
  "make, message",
  [
    (foreign_file, "is a file or a link"),
    (foreign_link, "is a file or a link"),
    (foreign_folder, r"\(a, b, c and 1 more\)"),
    (file_added, r"\(notes.txt\)"),
    (damaged_list, "weights"),
  ],
)
def test_anything_else_is_refused_and_stays(tmp_path, make, message):
  make(tmp_path / "model")
  before = contents(tmp_path)
  with pytest.raises(ValueError, match=message):
    write(tmp_path / "model", "new")
  assert contents(tmp_path) == before


def test_a_file_that_appears_meanwhile_stays(tmp_path):
  write(tmp_path / "model", "old")
  with pytest.raises(ValueError, match="notes.txt"):
    with folders.replaced(tmp_path / "model"):
      (tmp_path / "model" / "notes.txt").write_text("mine")
  assert contents(tmp_path) == {
    "model/notes.txt": "mine",
    "model/weights": "old",
  }


def test_an_error_leaves_the_old_folder(tmp_path):
  write(tmp_path / "model", "old")
  with pytest.raises(OSError, match="disk is full"):
    with folders.replaced(tmp_path / "model") as partial:
      (partial / "weights").write_text("half")
      raise OSError("disk is full")
  assert contents(tmp_path) == {"model/weights": "old"}


@pytest.mark.parametrize("renames, left", [(0, "old"), (1, "old"), (2, "new")])
def test_a_kill_leaves_one_of_both(tmp_path, renames, left):
  """The process ends in the middle of `finish`, after some renames."""
  write(tmp_path / "model", "old")
  program = f"""
import os, pathlib
from rlaif_jax.core import folders
count, rename = {renames}, pathlib.Path.rename
def counted(path, target):
  global count
  if not count:
    os._exit(9)
  count -= 1
  return rename(path, target)
with folders.replaced({str(tmp_path / "model")!r}) as partial:
  (partial / "weights").write_text("new")
  pathlib.Path.rename = counted
folders.shutil.rmtree = lambda *a, **k: None
os._exit(9)
"""
  done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False)
  assert done.returncode == 9
  with pytest.raises(KeyError):
    with folders.replaced(tmp_path / "model"):
      raise KeyError  # The next start fails too.
  assert contents(tmp_path / "model") == {"weights": left}
  write(tmp_path / "model", "next")
  assert contents(tmp_path) == {"model/weights": "next"}


@pytest.mark.parametrize(
  "source, is_apart",
  [
    ("run/model", False),
    ("run/model/params", False),
    ("link", False),
    ("run/../run/model", False),
    ("run", True),
    ("run/model2", True),
    ("elsewhere", True),
  ],
)
def test_a_source_inside_the_target_is_refused(tmp_path, source, is_apart):
  (tmp_path / "run" / "model" / "params").mkdir(parents=True)
  (tmp_path / "link").symlink_to(tmp_path / "run" / "model")
  target = tmp_path / "run" / "model"
  if is_apart:
    folders.check_apart(str(tmp_path / source), target)
  else:
    with pytest.raises(ValueError, match="use another --output_dir"):
      folders.check_apart(str(tmp_path / source), target)
