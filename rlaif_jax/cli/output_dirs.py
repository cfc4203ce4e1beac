# SPDX-License-Identifier: Apache-2.0
"""Output directories: one configuration each, resumable by the same command."""

from __future__ import annotations

import difflib
import pathlib
import re
from typing import Sequence

from rlaif_jax.core import job_spec
from rlaif_jax.core import jsonl


def claim(directory: pathlib.Path, config: str, spec: job_spec.JobSpec) -> None:
  """Writes config.gin, or checks that the one there is the same.

  Args:
    directory: where the job writes.
    config: the complete configuration as gin text.
    spec: its `overridable` parameters and config fields may differ.

  Raises:
    ValueError: if the directory holds a run with another configuration, or is
      an address such as gs://bucket/run.
  """
  if directory.parts[0].endswith(":"):
    raise ValueError(
      f"--output_dir is {directory}, an address; expected a folder that all "
      "hosts see: mount the storage and pass the mount point"
    )
  path = directory / "config.gin"
  if not path.exists():
    jsonl.write_text(path, config)
    return
  before = _lines(path.read_text("utf-8"), spec.overridable)
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


def _lines(config: str, leave_out: Sequence[str]) -> list[str]:
  """Returns the lines of gin text that do not bind one of the names."""
  bound = re.compile(r"(?:# )?[\w/]+\.(\w+) = ")
  return [
    line
    for line in config.splitlines()
    if not (match := bound.match(line)) or match[1] not in leave_out
  ]
