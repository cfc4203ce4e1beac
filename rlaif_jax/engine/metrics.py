# SPDX-License-Identifier: Apache-2.0
"""Where numbers go: a JSONL file that survives kills, and a progress line."""

from __future__ import annotations

import contextlib
import json
import math
import os
import pathlib
import sys
import time
from typing import Any, Iterator, Mapping

from rlaif_jax.core import jsonl
from rlaif_jax.engine import processes


class MetricsFile:
  """One JSON row per step. After a resume, rows past the restored step go.

  The rows are a function of the run alone (no times in them), so that a
  killed and resumed run ends with the same bytes.
  """

  def __init__(self, path: str | os.PathLike):
    self.path = pathlib.Path(path)

  def truncate_after(self, step: int) -> None:
    """Keeps the rows of steps <= step; drops a torn last line."""
    if not self.path.exists() or not processes.is_writer():
      return
    kept = []
    for line in self.path.read_text("utf-8").splitlines(keepends=True):
      try:
        if line.endswith("\n") and json.loads(line)["step"] <= step:
          kept.append(line)
      except ValueError:
        continue
    jsonl.write_text(self.path, "".join(kept))

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Appends a row; of several processes one does."""
    if not processes.is_writer():
      return
    row = jsonl.dump_row({"step": step, **values})
    self.path.parent.mkdir(parents=True, exist_ok=True)
    with open(self.path, "a", encoding="utf-8") as f:
      f.write(row + "\n")

  def read(self) -> list[dict[str, Any]]:
    """All rows, oldest first; none before the first write."""
    if not self.path.exists():
      return []
    lines = self.path.read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


class StepClock:
  """How much of a run's time goes into the making of batches.

  Devices work on while the host makes the next batch, so this share is the
  most that they can have waited for it. The first step, which compiles, is
  left out.
  """

  def __init__(self):
    self._batches = 0.0
    self._begin: float | None = None
    self._steps = -1

  @contextlib.contextmanager
  def making_a_batch(self) -> Iterator[None]:
    """Around what makes the batch of a step."""
    now = time.monotonic()
    if self._steps == 0:
      self._begin = now
    yield
    if self._steps >= 0:
      self._batches += time.monotonic() - now
    self._steps += 1

  def summary(self) -> dict[str, float]:
    """Steps after the first, seconds of each, share of making batches."""
    if self._begin is None or not self._steps:
      return {"steps": 0, "step_seconds": 0.0, "input_share": 0.0}
    seconds = time.monotonic() - self._begin
    return {
      "steps": self._steps,
      "step_seconds": seconds / self._steps,
      "input_share": self._batches / seconds,
    }


def duration(seconds: float) -> str:
  """75 -> "1m15s"."""
  seconds = int(seconds)
  if seconds < 60:
    return f"{seconds}s"
  if seconds < 3600:
    return f"{seconds // 60}m{seconds % 60:02d}s"
  return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"


class Progress:
  """A line with bar, rate and time left, on standard error.

  On a terminal the line is drawn over; elsewhere a line is printed every
  `every_seconds`. The rate leaves out what was done before this process
  began and, once there is a second more to go by, the first unit, which
  compiles.
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
    """Reports `done` of the total; `note` is a short text after the time."""
    now = time.monotonic()
    if self._begin is None:
      self._begin = (now, done)
    if not processes.is_writer():
      return
    wait = 0.2 if self._terminal else self.every_seconds
    if now - self._shown < wait and done < self.total:
      return
    self._shown = now
    since, first = self._begin
    if now - since < 1.0:
      since, first = self._start, self._before
    rate = (done - first) / (now - since) if now > since else 0.0
    left = duration((self.total - done) / rate) if rate else "?"
    share = done / max(self.total, 1)
    bar = "#" * int(20 * share) + "." * (20 - int(20 * share))
    text = (
      f"{self.name} [{bar}] {done}/{self.total} {self.unit}, "
      f"{rate:.3g} {self.unit}/s, {left} left{'  ' + note if note else ''}"
    )
    end = "" if self._terminal and done < self.total else "\n"
    start = "\r\x1b[K" if self._terminal else ""
    sys.stderr.write(start + text + end)
    sys.stderr.flush()
