# SPDX-License-Identifier: Apache-2.0
"""Rates responses in chunks that are appended to a file, to resume a run."""

from __future__ import annotations

import os
import pathlib
from typing import Callable, Sequence

from absl import logging

from rlaif_jax.core import jsonl
from rlaif_jax.core import parsing
from rlaif_jax.core import records
from rlaif_jax.engine import metrics
from rlaif_jax.engine import preemption
from rlaif_jax.labeling import store

# Rates responses: returns the ratings and their usage.
RateFn = Callable[
  [Sequence[records.Example]], tuple[list[records.Rating], records.Usage]
]


def rate_in_chunks(
  path: pathlib.Path,
  examples: Sequence[records.Example],
  rate_fn: RateFn,
  *,
  judge: str,
  chunk_size: int,
  commit: Callable[[bool], None],
) -> tuple[list[records.Rating], records.Usage]:
  """Rates responses and skips the chunks that an earlier run has rated.

  A chunk is one line of the file, stored completely or not at all.

  Args:
    path: file of the chunks.
    examples: responses, in the same order in each run.
    rate_fn: rates responses.
    judge: fingerprint of the judge; chunks of other judges are skipped.
    chunk_size: number of responses per chunk.
    commit: called after a chunk is stored; its argument tells whether all
      responses of the chunk have ratings.

  Returns:
    The ratings, and the usage including earlier runs.

  Raises:
    preemption.Preempted: the process was asked to stop.
  """
  lines = _read_chunks(path, judge)
  ratings: list[records.Rating] = []
  total = records.Usage()
  progress = metrics.Progress("score", len(examples), unit="responses")
  path.parent.mkdir(parents=True, exist_ok=True)
  with open(path, "a", encoding="utf-8") as f:
    for number, chunk in enumerate(store.batched(examples, chunk_size)):
      if number == len(lines):
        rated, usage = rate_fn(chunk)
        row = {
          "ratings": [records.to_row(rating) for rating in rated],
          "usage": records.to_row(usage),
          "judge": judge,
        }
        f.write(jsonl.dump_row(row) + "\n")
        f.flush()
        os.fsync(f.fileno())
        lines.append(row)
        commit(len(rated) == len(chunk))
      row = lines[number]
      with parsing.naming(f"{path}:{number + 1}"):
        ratings += [records.from_row(records.Rating, r) for r in row["ratings"]]
        total += records.from_row(records.Usage, row["usage"])
      progress.update(min((number + 1) * chunk_size, len(examples)))
      if preemption.requested():
        raise preemption.Preempted(f"score: stopped after chunk {number + 1}")
  return ratings, total


def _read_chunks(path: pathlib.Path, judge: str) -> list[records.Row]:
  """Reads the chunks of a judge and removes an incomplete last line."""
  if not path.exists():
    return []
  jsonl.cut_torn_line(path)
  rows = jsonl.parse_rows(path, jsonl.row_of)
  found = [row for row in rows if row.get("judge") == judge]
  if len(found) < len(rows):
    logging.warning(
      "%s: %d chunks are of another labeler or judge; they are not used.",
      path,
      len(rows) - len(found),
    )
  return found
