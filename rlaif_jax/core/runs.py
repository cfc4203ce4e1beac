# SPDX-License-Identifier: Apache-2.0
"""One directory, one run: the same command continues, another is refused."""

from __future__ import annotations

import difflib
import pathlib
from typing import Sequence

from rlaif_jax.core import jsonl


def claim(
  directory: pathlib.Path, config: str, may_change: Sequence[str] = ()
) -> None:
  """Makes the directory this run's, or finds that it is already.

  Args:
    directory: where the run writes.
    config: all that it was given, as gin text.
    may_change: parameters ("job.name") that change no result, such as a
      budget; a later start may give others.

  Raises:
    ValueError: it belongs to a run with another configuration.
  """
  path = directory / "config.gin"
  if not path.exists():
    jsonl.write_text(path, config)
    return
  before = _lines(path.read_text("utf-8"), may_change)
  now = _lines(config, may_change)
  if before != now:
    difference = [
      line
      for line in difflib.ndiff(before, now)
      if line[:2] in ("- ", "+ ") and line[2:].strip()
    ]
    raise ValueError(
      f"{directory} holds a run with another configuration (-: there, +: "
      "now):\n  " + "\n  ".join(difference) + "\nUse another --output_dir, or "
      "delete that one."
    )


def _lines(config: str, leave_out: Sequence[str]) -> list[str]:
  begins = tuple(f"{name} = " for name in leave_out)
  return [line for line in config.splitlines() if not line.startswith(begins)]
