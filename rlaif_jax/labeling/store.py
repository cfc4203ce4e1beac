# SPDX-License-Identifier: Apache-2.0
"""The label store: labels and what they cost, paid for once.

A directory of append-only JSONL files, one for each process that writes, with
one line per chunk of pairs, so that a chunk is there whole or not at all. Any
set of such files is a store: merging is copying. Labels are looked up in an
SQLite table on disk that is built from the files when the store is opened, so
memory does not grow with them. Knows nothing of models or prompts.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import pathlib
import sqlite3
from typing import (
  Any,
  BinaryIO,
  Callable,
  Iterable,
  Iterator,
  Mapping,
  Sequence,
)

from absl import logging

from rlaif_jax.core import jsonl
from rlaif_jax.core import records

Ask = Callable[
  [Sequence[records.Pair]], tuple[list[records.Preference], records.Usage]
]

# Labels that one query fetches.
_BATCH = 500


class LabelStore:
  """Labels by content: fingerprint of the judge, context, first, second.

  Pairs with the same texts share one label whatever their ids. Several judges
  and several processes may share a directory: each process appends to a file
  of its own (held by a lock) and reads those of the others, up to their last
  whole line. Two that are asked for the same pairs at once may both pay for
  them; give them shards (`records.shard`).

  Args:
    directory: made when it is not there. A last line of the own file that was
      torn by a kill is cut off, with a warning.
    fingerprint: of the judge, `JudgeConfig.fingerprint`.
    provenance: how the labels are made, as JSON values; stands in each line
      that is written, beside the fingerprint.
    writer: name of the own file. Another process that holds it makes this one
      take the next free name.

  Raises:
    ValueError: a line, other than a torn last one, that is not a chunk.
  """

  def __init__(
    self,
    directory: str | os.PathLike,
    *,
    fingerprint: str,
    provenance: Mapping[str, Any] | None = None,
    writer: str = "labels",
  ):
    self._directory = pathlib.Path(directory)
    self._directory.mkdir(parents=True, exist_ok=True)
    self._judge = {"fingerprint": fingerprint, **(provenance or {})}
    self._fingerprint = fingerprint
    self._writer = writer
    self._file: BinaryIO | None = None
    self._read_to: dict[pathlib.Path, tuple[int, int]] = {}  # bytes, lines
    self.usage = records.Usage()  # of this judge, earlier runs included
    self.asked = 0  # pairs that this object asked for
    # An empty name is a table in a temporary file that vanishes with us.
    self._table = sqlite3.connect("", isolation_level=None)
    self._table.execute("PRAGMA cache_size = -65536")  # 64 MiB at most
    self._table.execute("CREATE TABLE rows (row TEXT)")
    self._table.execute("CREATE TABLE places (key INTEGER PRIMARY KEY, place)")
    self.refresh()

  def close(self) -> None:
    """Frees the own file for other processes."""
    if self._file is not None:
      self._file.close()
    self._table.close()

  def refresh(self) -> None:
    """Reads what was appended since, by this process or another."""
    for path in sorted(self._directory.glob("*.jsonl")):
      begin, number = self._read_to.get(path, (0, 0))
      if path.stat().st_size == begin:
        continue
      with open(path, "rb") as f:
        f.seek(begin)
        self._table.execute("BEGIN")
        for line in f:
          if not line.endswith(b"\n"):
            break  # Its process is still writing it, or was killed.
          number += 1
          begin += len(line)
          self._take_line(line, f"{path}:{number}")
        self._table.execute("COMMIT")
      self._read_to[path] = begin, number

  def _take_line(self, line: bytes, where: str) -> None:
    try:
      chunk = json.loads(line)
      usage = records.from_row(records.Usage, chunk["usage"])
      if chunk["judge"]["fingerprint"] == self._fingerprint:
        self._take(chunk["labels"])
        self.usage += usage
    except (ValueError, KeyError, TypeError) as error:
      raise ValueError(
        f"{where}: not a chunk of labels ({error}). Delete this line; its "
        "pairs are then asked again"
      ) from error

  def _take(self, labels: Sequence[dict[str, Any]]) -> None:
    for row in labels:
      key = _number(row.pop("key"))
      place = self._table.execute(
        "INSERT INTO rows VALUES (?)", (jsonl.dump_row(row),)
      ).lastrowid
      # Of two labels of one pair the first that is seen stays.
      self._table.execute(
        "INSERT OR IGNORE INTO places VALUES (?, ?)", (key, place)
      )

  def _own_file(self) -> BinaryIO:
    """The file to append to, locked, without a torn last line."""
    if self._file is not None:
      return self._file
    for number in itertools.count():
      name = f"{self._writer}-{number}" if number else self._writer
      path = self._directory / f"{name}.jsonl"
      f = open(path, "ab")
      try:
        fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        f.close()
        continue
      if cut := jsonl.cut_torn_line(path):
        logging.warning(
          "%s: cut off %d bytes of a chunk that was not written to its end; "
          "its pairs are asked again.",
          path,
          cut,
        )
      self._file = f
      return f
    raise AssertionError("unreachable")

  def _key(self, row: records.Pair | records.Preference) -> str:
    return records.content_id(
      self._fingerprint, row.context, row.first, row.second
    )

  def _rows(self, keys: Sequence[str]) -> dict[str, str]:
    """The stored rows of those keys that have one."""
    names = {_number(key): key for key in keys}
    result = {}
    for begin in range(0, len(names), _BATCH):
      some = list(names)[begin : begin + _BATCH]
      marks = ",".join("?" * len(some))
      query = (
        "SELECT key, row FROM places JOIN rows ON rows.rowid = place "
        f"WHERE key IN ({marks})"
      )
      for number, row in self._table.execute(query, some):
        result[names[number]] = row
    return result

  def missing(self, pairs: Iterable[records.Pair]) -> list[records.Pair]:
    """The pairs without a label; of pairs with the same texts, the first."""
    wanted = {}
    for pair in pairs:
      wanted.setdefault(self._key(pair), pair)
    known = self._rows(list(wanted))
    return [pair for key, pair in wanted.items() if key not in known]

  def add(
    self, preferences: Sequence[records.Preference], usage: records.Usage
  ) -> None:
    """Appends a chunk and its cost; on disk when this returns."""
    chunk = {
      "judge": self._judge,
      "labels": [
        {
          "key": self._key(preference),
          "labeler": preference.labeler,
          "p_first": preference.p_first,
          "p_orders": preference.p_orders,
          "rationales": preference.rationales,
          "cut_tokens": preference.cut_tokens,
        }
        for preference in preferences
      ],
      "usage": records.to_row(usage),
    }
    f = self._own_file()
    f.write((jsonl.dump_row(chunk) + "\n").encode("utf-8"))
    f.flush()
    os.fsync(f.fileno())
    self.refresh()  # Reads it back, so what counts is what is on disk.

  def fill(
    self,
    pairs: Iterable[records.Pair],
    ask: Ask,
    *,
    chunk_size: int,
    progress: Callable[[int], None] | None = None,
  ) -> None:
    """Asks for what is missing, chunk after chunk.

    Chunks are fixed slices of `pairs`. After a kill the next run asks the
    torn chunk whole and no other, so that even a backend whose last digits
    depend on the batch gives the same labels as an uninterrupted run.

    Args:
      pairs: all pairs, in the same order in each run; may be a stream.
      ask: labels pairs, as `judge.judge_pairs` with its arguments bound. It
        may leave out pairs that got no answer; the next run asks them again.
      chunk_size: pairs in a chunk.
      progress: called with the pairs done after each chunk.
    """
    done = 0
    for chunk in batched(pairs, chunk_size):
      self.refresh()
      wanted = self.missing(chunk)
      if wanted:
        self.add(*ask(wanted))
        self.asked += len(wanted)
      done += len(chunk)
      if progress is not None:
        progress(done)

  def labels(
    self, pairs: Iterable[records.Pair]
  ) -> Iterator[records.Preference]:
    """The labels of the pairs that have one, in the order of the pairs."""
    for chunk in batched(pairs, _BATCH):
      keys = [self._key(pair) for pair in chunk]
      rows = self._rows(keys)
      for key, pair in zip(keys, chunk, strict=True):
        if key in rows:
          label = json.loads(rows[key])
          yield records.Preference(**vars(pair), **label)


def batched(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
  """Slices of a stream, the last one as long as it is."""
  if size < 1:
    raise ValueError(f"chunk_size is {size}; it should be at least 1")
  stream = iter(items)
  while chunk := list(itertools.islice(stream, size)):
    yield chunk


def _number(key: str) -> int:
  """A content id as SQLite's signed 64-bit integer."""
  return int(key, 16) - 2**63
