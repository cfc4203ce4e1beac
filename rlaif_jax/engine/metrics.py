# SPDX-License-Identifier: Apache-2.0
"""Metrics as a JSONL file that is consistent after a kill; progress lines."""

from __future__ import annotations

import contextlib
import json
import math
import os
import pathlib
import sys
import time
from typing import Iterator, Mapping

from rlaif_jax.core import jsonl
from rlaif_jax.core import parsing
from rlaif_jax.core import records
from rlaif_jax.engine import processes


class MetricsFile:
  """One JSON row per step.

  Rows contain no times, so the file of a run that was killed and resumed is
  bit-exact.
  """

  def __init__(self, path: str | os.PathLike):
    self.path = pathlib.Path(path)

  def truncate_after(self, step: int) -> None:
    """Keeps the rows of steps <= step, and drops an incomplete last line."""
    if not self.path.exists() or not processes.is_writer():
      return
    kept = []
    for line in self.path.read_text("utf-8").splitlines(keepends=True):
      try:
        if line.endswith("\n") and json.loads(line)["step"] <= step:
          kept.append(line)
      except parsing.ERRORS:
        continue
    jsonl.write_text(self.path, "".join(kept))

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Appends a row; one of several processes does."""
    if not processes.is_writer():
      return
    row = jsonl.dump_row({"step": step, **values})
    self.path.parent.mkdir(parents=True, exist_ok=True)
    with open(self.path, "a", encoding="utf-8") as f:
      f.write(row + "\n")

  def read(self) -> list[records.Row]:
    """Returns all rows, oldest first; none if there is no file."""
    if not self.path.exists():
      return []
    return jsonl.parse_rows(self.path, jsonl.row_of)


class StepClock:
  """Measures the share of a run's time that the input pipeline takes.

  Devices compute while the host makes the next batch, so the share is an upper
  bound of their idle time. The first step, which compiles, is not counted.
  """

  def __init__(self):
    self._batches = 0.0
    self._begin: float | None = None
    self._steps = -1

  @contextlib.contextmanager
  def time_batch(self) -> Iterator[None]:
    """Times the making of one batch."""
    now = time.monotonic()
    if self._steps == 0:
      self._begin = now
    yield
    if self._steps >= 0:
      self._batches += time.monotonic() - now
    self._steps += 1

  def summary(self) -> dict[str, float]:
    """Returns the steps after the first, seconds per step and input share."""
    if self._begin is None or not self._steps:
      return {"steps": 0, "step_seconds": 0.0, "input_share": 0.0}
    seconds = time.monotonic() - self._begin
    return {
      "steps": self._steps,
      "step_seconds": seconds / self._steps,
      "input_share": self._batches / seconds,
    }


def duration(seconds: float) -> str:
  """Formats seconds: 75 -> "1m15s"."""
  seconds = int(seconds)
  if seconds < 60:
    return f"{seconds}s"
  if seconds < 3600:
    return f"{seconds // 60}m{seconds % 60:02d}s"
  return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"


class Progress:
  """A line with bar, rate and time left, on standard error.

  A terminal line is overwritten; elsewhere a line is printed every
  `every_seconds`. The rate excludes work done before this process started and,
  after another second, the first unit, which compiles.

  Args:
    name: name of the work.
    total: number of units.
    done: units done before this process started.
    unit: plural name of a unit.
    every_seconds: seconds between lines outside a terminal.
  """

  def __init__(
    self,
    name: str,
    total: int,
    *,
    done: int = 0,
    unit: str = "steps",
    every_seconds: float = 10.0,
  ):
    self.name, self.total, self.unit = name, total, unit
    self.every_seconds = every_seconds
    self._begin: tuple[float, int] | None = None
    self._shown = -math.inf
    self._start = time.monotonic()
    self._terminal = sys.stderr.isatty()
    self._before = done

  def update(self, done: int, note: str = "") -> None:
    """Reports `done` units; `note` is a short text at the end of the line."""
    now = time.monotonic()
    if self._begin is None:
      self._begin = (now, done)
    if not processes.is_writer():
      return
    wait = 0.2 if self._terminal else self.every_seconds
    if now - self._shown < wait and done < self.total:
      return
    self._shown = now
    share = done / max(self.total, 1)
    bar = "#" * int(20 * share) + "." * (20 - int(20 * share))
    text = (
      f"{self.name} [{bar}] {done}/{self.total} {self.unit}, "
      f"{self._speed(done, now)}{'  ' + note if note else ''}"
    )
    end = "" if self._terminal and done < self.total else "\n"
    start = "\r\x1b[K" if self._terminal else ""
    sys.stderr.write(start + text + end)
    sys.stderr.flush()

  def _speed(self, done: int, now: float) -> str:
    """Returns rate and time left, or only how long the first unit took."""
    since, first = self._begin
    if now - since < 1.0:
      since, first = self._start, self._before
      if done - first == 1 and done < self.total and now - since > 1.0:
        return f"the first after {duration(now - since)} with compilation"
    rate = (done - first) / (now - since) if now > since else 0.0
    left = duration((self.total - done) / rate) if rate else "?"
    return f"{rate:.3g} {self.unit}/s, {left} left"
