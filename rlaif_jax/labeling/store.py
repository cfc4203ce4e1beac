# SPDX-License-Identifier: Apache-2.0
"""The label store: labels and what they cost, paid for once.

Owns an append-only JSONL file with one line per chunk of pairs, so that a
chunk is there whole or not at all. Knows nothing of models or prompts.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from typing import Any, Callable, Iterable, Sequence

from absl import logging

from rlaif_jax.core import jsonl
from rlaif_jax.core import records

Ask = Callable[
  [Sequence[records.Pair]], tuple[list[records.Preference], records.Usage]
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prices:
  """US dollars per 1,000 tokens; 0 for a labeler of one's own."""

  input_usd_per_1k: float = 0.0
  output_usd_per_1k: float = 0.0

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if not 0.0 <= value < float("inf"):
        raise ValueError(
          f"{field.name} is {value}; a price is a finite number of dollars, "
          "at least 0"
        )

  def cost_usd(self, usage: records.Usage) -> float:
    """What the tokens cost, in US dollars."""
    total = usage.input_tokens * self.input_usd_per_1k
    total += usage.output_tokens * self.output_usd_per_1k
    return total / 1000


class LabelStore:
  """Labels by content: fingerprint of the judge, context, first, second.

  Pairs with the same texts share one label whatever their ids. Several judges
  may share a file. One process writes at a time.

  Args:
    path: the file; made when it is not there. A last line that was torn by a
      kill is cut off, with a warning.
    fingerprint: of the judge, `JudgeConfig.fingerprint`.

  Raises:
    ValueError: a line, other than a torn last one, that is not a chunk.
  """

  def __init__(self, path: str | os.PathLike, *, fingerprint: str):
    self._path = pathlib.Path(path)
    self._fingerprint = fingerprint
    self._labels: dict[str, dict[str, Any]] = {}
    self.usage = records.Usage()  # of this judge, earlier runs included
    self._path.parent.mkdir(parents=True, exist_ok=True)
    if self._path.exists():
      self._repair()
      self._read()

  def _repair(self) -> None:
    data = self._path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
      logging.warning(
        "%s: cut off %d bytes of a chunk that was not written to its end; its "
        "pairs are asked again.",
        self._path,
        len(data) - whole,
      )
      with open(self._path, "r+b") as f:
        f.truncate(whole)
        f.flush()
        os.fsync(f.fileno())

  def _read(self) -> None:
    for number, line in jsonl.read_lines(self._path):
      try:
        self._take(json.loads(line))
      except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
          f"{self._path}:{number}: not a chunk of labels ({error}). Delete "
          "this line; its pairs are then asked again"
        ) from error

  def _take(self, chunk: dict[str, Any]) -> None:
    usage = records.from_row(records.Usage, chunk["usage"])
    if chunk["fingerprint"] == self._fingerprint:
      labels = {row.pop("key"): row for row in chunk["labels"]}
      self._labels |= labels
      self.usage += usage

  def _key(self, row: records.Pair | records.Preference) -> str:
    return records.content_id(
      self._fingerprint, row.context, row.first, row.second
    )

  def missing(self, pairs: Iterable[records.Pair]) -> list[records.Pair]:
    """The pairs without a label; of pairs with the same texts, the first."""
    wanted: dict[str, records.Pair] = {}
    for pair in pairs:
      key = self._key(pair)
      if key not in self._labels:
        wanted.setdefault(key, pair)
    return list(wanted.values())

  def add(
    self, preferences: Sequence[records.Preference], usage: records.Usage
  ) -> None:
    """Appends a chunk and its cost; on disk when this returns."""
    chunk = {
      "fingerprint": self._fingerprint,
      "labels": [
        {
          "key": self._key(preference),
          "labeler": preference.labeler,
          "p_first": preference.p_first,
          "p_orders": preference.p_orders,
          "rationales": preference.rationales,
        }
        for preference in preferences
      ],
      "usage": records.to_row(usage),
    }
    line = jsonl.dump_row(chunk)
    with open(self._path, "ab") as f:
      f.write((line + "\n").encode("utf-8"))
      f.flush()
      os.fsync(f.fileno())
    self._take(json.loads(line))

  def fill(
    self,
    pairs: Sequence[records.Pair],
    ask: Ask,
    *,
    chunk_size: int,
    progress: Callable[[int, int], None] | None = None,
  ) -> None:
    """Asks for what is missing, chunk after chunk.

    Chunks are fixed slices of `pairs`. After a kill the next run asks the
    torn chunk whole and no other, so that even a backend whose last digits
    depend on the batch gives the same labels as an uninterrupted run.

    Args:
      pairs: all pairs, in the same order in each run.
      ask: labels pairs, as `judge.judge_pairs` with its arguments bound. It
        may leave out pairs that got no answer; the next run asks them again.
      chunk_size: pairs in a chunk.
      progress: called with (pairs done, pairs in all) after each chunk.
    """
    if chunk_size < 1:
      raise ValueError(f"chunk_size is {chunk_size}; it should be at least 1")
    for start in range(0, len(pairs), chunk_size):
      wanted = self.missing(pairs[start : start + chunk_size])
      if wanted:
        self.add(*ask(wanted))
      if progress is not None:
        progress(min(start + chunk_size, len(pairs)), len(pairs))

  def labels(self, pairs: Iterable[records.Pair]) -> list[records.Preference]:
    """The labels of the pairs that have one, in the order of the pairs."""
    result = []
    for pair in pairs:
      label = self._labels.get(self._key(pair))
      if label is not None:
        result.append(records.Preference(**records.to_row(pair), **label))
    return result

  def export(
    self, path: str | os.PathLike, pairs: Sequence[records.Pair]
  ) -> int:
    """Writes the labels of the pairs, in their order; returns how many.

    The bytes depend on the pairs and their labels alone, not on when or in
    how many runs they were made. Pairs without a label are counted in a
    warning; the judge's quarantine says why they have none.
    """
    count = jsonl.write_records(path, self.labels(pairs))
    if count < len(pairs):
      logging.warning(
        "%s: %d of %d pairs have no label.",
        path,
        len(pairs) - count,
        len(pairs),
      )
    return count
