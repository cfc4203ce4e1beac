# SPDX-License-Identifier: Apache-2.0
"""Folders that get their name only when they are complete.

A folder is written beside its place under a temporary name and renamed at the
end. The one that it replaces is deleted only if this module has written all of
it, and only after the new one is complete.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
from typing import Iterator

from rlaif_jax.core import jsonl

# Lists the names that were written to a folder.
MARK = ".files.json"

# A finished model of a version that wrote no list.
_MODEL = "model.json"


def check_replaceable(target: str | os.PathLike) -> None:
  """Checks that a folder is missing, empty, or written by this module.

  Raises:
    ValueError: if it is a file or a link, or has files of somebody else; names
      some of them.
  """
  target = pathlib.Path(target)
  if target.is_symlink() or (target.exists() and not target.is_dir()):
    raise ValueError(
      f"{target} is a file or a link, and a folder is written there; move it "
      "away, or use another --output_dir"
    )
  if foreign := _foreign(target):
    raise ValueError(
      f"{target} holds files that no job has written there "
      f"({shown(foreign)}); move them away, or use another --output_dir"
    )


def shown(names: list[str]) -> str:
  """Returns the first names for a message, and how many more there are."""
  more = f" and {len(names) - 3} more" if len(names) > 3 else ""
  return ", ".join(names[:3]) + more


def _foreign(target: pathlib.Path) -> list[str]:
  """Returns the names in a folder that this module has not written."""
  names = sorted(os.listdir(target)) if target.is_dir() else []
  if MARK not in names:
    return [] if _MODEL in names else names
  try:
    written = json.loads((target / MARK).read_text("utf-8"))["files"]
  except (ValueError, KeyError, TypeError):
    return names
  return [name for name in names if name not in (*written, MARK)]


def check_apart(source: str, target: str | os.PathLike) -> None:
  """Checks that what is read is not what will be written.

  Raises:
    ValueError: if the source is the target or inside it, links resolved.
  """
  read, written = os.path.realpath(source), os.path.realpath(target)
  if os.path.commonpath([read, written]) == written:
    raise ValueError(
      f"{source} is read and is inside {target}, which is written; use another "
      "--output_dir"
    )


def _beside(target: pathlib.Path, kind: str) -> pathlib.Path:
  return target.with_name(f".{target.name}.rlaif_jax.{kind}")


def start(target: str | os.PathLike) -> pathlib.Path:
  """Makes the empty temporary folder and returns it; `finish` renames it.

  Raises:
    ValueError: if the target cannot be replaced; see `check_replaceable`.
  """
  target = pathlib.Path(target)
  partial, old = temporary(target), _beside(target, "old")
  if old.exists():  # A process was killed inside `finish`.
    if os.path.lexists(target):
      shutil.rmtree(old)
    else:
      old.rename(target)
  check_replaceable(target)
  shutil.rmtree(partial, ignore_errors=True)
  partial.mkdir(parents=True)
  return partial


def temporary(target: str | os.PathLike) -> pathlib.Path:
  """Returns the temporary name of a folder."""
  return _beside(pathlib.Path(target), "partial")


def finish(target: str | os.PathLike) -> None:
  """Renames the temporary folder, and deletes the one that it replaces.

  Raises:
    ValueError: if the target cannot be replaced any more.
  """
  target = pathlib.Path(target)
  partial, old = temporary(target), _beside(target, "old")
  files = json.dumps({"files": sorted(os.listdir(partial))}) + "\n"
  jsonl.write_text(partial / MARK, files)
  check_replaceable(target)
  if target.exists():
    target.rename(old)
  partial.rename(target)
  shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def replaced(target: str | os.PathLike) -> Iterator[pathlib.Path]:
  """Yields the temporary folder, which is renamed unless an error is raised."""
  partial = start(target)
  try:
    yield partial
    finish(target)
  finally:
    shutil.rmtree(partial, ignore_errors=True)
