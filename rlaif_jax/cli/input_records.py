# SPDX-License-Identifier: Apache-2.0
"""Records what a run reads, so that it does not resume on other data.

`inputs.json` in the output directory has the hash of each file that was read
and the versions of the main packages. Files inside that directory are no
inputs.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import pathlib
import platform
import threading
from typing import Any

from rlaif_jax.core import jsonl
from rlaif_jax.core import versions

FILE = "inputs.json"
PACKAGES = (
  *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"),
  "rlaif_jax",
)

# Files of the package, such as templates, are named relative to it: another
# environment has them elsewhere.
_PACKAGE = pathlib.Path(__file__).parents[1]

_LARGE = 5 * 10**9  # bytes

# {"bytes": int, "mtime_ns": int, "sha256": str}
Entry = dict[str, Any]


class Recorder:
  """The inputs of one run.

  Args:
    directory: output directory of the run.
    accept: accepts changes and records them, instead of raising an error.
    resume: continues the records of an earlier start.

  Raises:
    ValueError: if inputs.json is damaged.
  """

  def __init__(
    self,
    directory: str | os.PathLike,
    *,
    accept: bool = False,
    resume: bool = True,
  ):
    self._directory = pathlib.Path(directory)
    self._path = self._directory / FILE
    self._root = os.path.realpath(directory)
    self._accept = accept
    self._lock = threading.Lock()
    self._files: dict[str, Entry] = {}
    self._versions = installed()
    self._accepted: list[dict[str, object]] = []
    self._is_stored = False
    if resume and self._path.exists():
      self._read()

  def _read(self) -> None:
    try:
      found = json.loads(self._path.read_text("utf-8"))
      self._files = dict(found["files"])
      self._versions = dict(found["versions"])
      self._accepted = list(found["accepted"])
    except (ValueError, KeyError, TypeError) as error:
      raise ValueError(
        f"{self._path} is damaged ({error!r}); use another --output_dir, or "
        "delete the file if you know that the inputs of the run are the same"
      ) from error
    self._is_stored = True

  def check(self, *, is_finished: bool) -> None:
    """Compares all recorded files, and the versions of an unfinished run.

    Raises:
      ValueError: if some have changed; lists them.
    """
    changes = []
    for key in sorted(self._files):
      changes += self._update(key, location(key))
    if not is_finished:
      changes += self._new_versions()
    self._commit(changes)

  def start(self) -> None:
    """Stores the versions before the run does anything."""
    if not self._is_stored:
      self._write()

  def note(self, path: str | os.PathLike) -> None:
    """Records a file that is about to be read.

    Raises:
      ValueError: if it has changed since it was recorded.
    """
    file = os.path.abspath(path)
    inside = os.path.realpath(file).startswith(self._root + os.sep)
    if inside or not os.path.isfile(file):
      return
    with self._lock:
      key = key_of(file)
      is_new = key not in self._files
      self._commit(self._update(key, file))
      if is_new:
        self._write()

  def _update(self, key: str, file: str) -> list[str]:
    """Brings an entry up to date; returns a line if the content differs.

    An entry whose content differs is kept unless changes are accepted.
    """
    before = self._files.get(key)
    try:
      status = os.stat(file)
    except OSError:
      if self._accept:
        self._files.pop(key, None)
      return [f"{file}: missing"]
    size, time = status.st_size, status.st_mtime_ns
    if before and (before["bytes"], before["mtime_ns"]) == (size, time):
      return []
    now = {"bytes": size, "mtime_ns": time, "sha256": hash_of(file)}
    same = before is None or before["sha256"] == now["sha256"]
    if same or self._accept:
      self._files[key] = now
    if same:
      return []
    return [f"{file}: sha256 {before['sha256'][:8]} -> {now['sha256'][:8]}"]

  def _new_versions(self) -> list[str]:
    before, now = self._versions, installed()
    self._versions = now
    return [
      f"{name}: {before.get(name, 'none')} -> {now.get(name, 'none')}"
      for name in sorted(before.keys() | now.keys())
      if before.get(name) != now.get(name)
    ]

  def _commit(self, changes: list[str]) -> None:
    """Records changes if they are accepted."""
    if not changes:
      return
    if not self._accept:
      listed = "\n  ".join(changes)
      raise ValueError(
        f"what the run in {self._directory} has read is not the same any "
        f"more:\n  {listed}\nUse another --output_dir for a new run, or add "
        f"--accept_changes to keep this one; {FILE} then lists the changes"
      )
    date = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    self._accepted.append({"date": date, "changes": changes})
    self._write()

  def _write(self) -> None:
    row = {
      "files": self._files,
      "versions": self._versions,
      "accepted": self._accepted,
    }
    text = json.dumps(row, indent=1, sort_keys=True) + "\n"
    jsonl.write_text(self._path, text)
    self._is_stored = True


def installed() -> dict[str, str]:
  """Returns the versions of Python and of the main packages."""
  return {
    "python": platform.python_version(),
    **versions.installed(PACKAGES),
  }


def key_of(file: str) -> str:
  """Returns the name of a file in the records."""
  path = pathlib.Path(file)
  if path.is_relative_to(_PACKAGE):
    return (_PACKAGE.name / path.relative_to(_PACKAGE)).as_posix()
  return file


def location(key: str) -> str:
  """Returns the file of a name in the records."""
  return key if os.path.isabs(key) else str(_PACKAGE.parent / key)


def hash_of(file: str) -> str:
  """Returns the SHA-256 of a file; tells if it takes a while."""
  if (size := os.path.getsize(file)) > _LARGE:
    print(f"hashing {file} ({size / 1e9:.0f} GB)", flush=True)
  with open(file, "rb") as f:
    return hashlib.file_digest(f, "sha256").hexdigest()
