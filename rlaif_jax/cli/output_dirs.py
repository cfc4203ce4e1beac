# SPDX-License-Identifier: Apache-2.0
"""Output directories: one configuration each, resumable by the same command."""

from __future__ import annotations

import dataclasses
import difflib
import os
import pathlib
import re
from typing import Iterator, Mapping, Sequence

from rlaif_jax.core import folders
from rlaif_jax.core import job_spec
from rlaif_jax.core import jsonl

# What another start of the same run may write before config.gin is seen.
_OWN = re.compile(r"\.lock\..*|inputs\.json|\.(config|inputs)\..*\.partial")

# Parameters and fields that name where a job writes.
_WRITTEN = ("store_dir", "labels_dir")
# Further parameters and fields that name what a job reads.
_READ = ("source", "init_from")


def check(directory: pathlib.Path, config: str, spec: job_spec.JobSpec) -> None:
  """Checks that a run with this configuration may write to the directory.

  Args:
    directory: where the job writes. It is missing, empty, or holds this run.
    config: the complete configuration as gin text.
    spec: its `overridable` parameters and config fields may differ.

  Raises:
    ValueError: if the directory holds a run with another configuration or
      other files, or is an address such as gs://bucket/run.
  """
  if directory.parts and directory.parts[0].endswith(":"):
    raise ValueError(
      f"--output_dir is {directory}, an address; expected a folder that all "
      "hosts see: mount the storage and pass the mount point"
    )
  if directory.exists() and not directory.is_dir():
    raise ValueError(f"--output_dir is {directory}, a file; name a folder")
  names = sorted(os.listdir(directory)) if directory.exists() else []
  if "config.gin" not in names:
    _check_empty(directory, names)
    return
  stored = (directory / "config.gin").read_text("utf-8")
  before = _lines(stored, spec.overridable)
  now = _lines(config, spec.overridable)
  if before != now:
    difference = [
      line
      for line in difflib.ndiff(before, now)
      if line[:2] in ("- ", "+ ") and line[2:].strip()
    ]
    raise ValueError(
      f"{directory} holds a run with another configuration (-: stored, +: "
      "now):\n  " + "\n  ".join(difference) + "\nUse another --output_dir, or "
      "delete that one."
    )


def _check_empty(directory: pathlib.Path, names: Sequence[str]) -> None:
  foreign = [name for name in names if not _OWN.fullmatch(name)]
  if foreign:
    raise ValueError(
      f"{directory} is not empty and holds no run (no config.gin): "
      f"{folders.shown(foreign)}. A job writes only to a folder of its own; "
      "use a new --output_dir"
    )


def claim(directory: pathlib.Path, config: str, spec: job_spec.JobSpec) -> None:
  """Writes config.gin, or checks that the one there is the same; see `check`.

  Raises:
    ValueError: see `check`; or `model` or `adapter` in the directory is not
      what the run has written there.
  """
  check(directory, config, spec)
  for name in ("model", "adapter"):
    folders.check_replaceable(directory / name)
  if not (directory / "config.gin").exists():
    jsonl.write_text(directory / "config.gin", config)


def check_apart(
  directory: pathlib.Path, arguments: Mapping[str, object]
) -> None:
  """Checks that no argument of a job names an input inside the directory.

  Raises:
    ValueError: if one does; names it.
  """
  for name, value in _paths("", arguments):
    try:
      folders.check_apart(value, directory)
    except ValueError as error:
      raise ValueError(f"{name}: {error}") from None


def _paths(name: str, value: object) -> Iterator[tuple[str, str]]:
  """Yields (name, path) of the arguments that name what the job reads."""
  if dataclasses.is_dataclass(value):
    value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    yield from _paths(name, value)
  elif isinstance(value, Mapping):
    for key, part in value.items():
      yield from _paths(str(key), part)
  elif isinstance(value, (list, tuple)):
    for part in value:
      yield from _paths(name, part)
  elif isinstance(value, str) and value and name not in _WRITTEN:
    is_read = name in _READ or name.endswith(("_dir", "_file"))
    if is_read or (os.sep in value and os.path.lexists(value)):
      yield name, value


def _lines(config: str, leave_out: Sequence[str]) -> list[str]:
  """Returns the lines of gin text that do not bind one of the names."""
  bound = re.compile(r"(?:# )?[\w/]+\.(\w+) = ")
  return [
    line
    for line in config.splitlines()
    if not (match := bound.match(line)) or match[1] not in leave_out
  ]
