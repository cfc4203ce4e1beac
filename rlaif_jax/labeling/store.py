# SPDX-License-Identifier: Apache-2.0
"""Label store: keeps labels and their usage, so that no label is paid twice.

A directory of append-only JSONL files, one per writing process, with one line
per chunk of pairs, so that a chunk is stored completely or not at all. Any set
of such files is a store; copying files merges stores. Labels are looked up in
a temporary SQLite table that is built from the files when the store is opened,
so that memory use is constant.

One SQLite file in WAL mode cannot replace store and journal: WAL does not work
on network file systems, which the shards of a pod share
(https://sqlite.org/wal.html), and a database can neither live in an object
store (`labeling.beam_labels`) nor be merged by copying. It would not be faster:
with 1e6 labels on a local ext4 disk it wrote 8,300 labels/s and 9,100 journal
lines/s and read 21,000 labels/s, against 8,700, 28,000 and 32,000 with these
files; only opening the store takes longer, 24 s against none (30 us of CPU time
a label since each label is checked, 15 before).
"""

from __future__ import annotations

import collections
import fcntl
import itertools
import json
import os
import pathlib
import sqlite3
from typing import (
  BinaryIO,
  Callable,
  Iterable,
  Iterator,
  Sequence,
  TypeVar,
)

from absl import logging

from rlaif_jax.core import jsonl
from rlaif_jax.core import parsing
from rlaif_jax.core import records

T = TypeVar("T")

# Labels pairs: returns the labels and their usage.
LabelFn = Callable[
  [Sequence[records.Pair]], tuple[list[records.Preference], records.Usage]
]

_BATCH = 500  # labels per query
# A label is stored without these fields of its pair.
_NO_PAIR = dict.fromkeys(("id", "context", "first", "second"), "")


class LabelStore:
  """Labels of one judge, keyed by the texts of the pair.

  Pairs with the same texts share one label whatever their ids. Several judges
  and several processes may share a directory: each process appends to its own
  locked file and reads the files of the others up to their last complete line.
  Two processes that label the same pairs at the same time may both pay for
  them; give each process its own shard (`pair_source.PairSource.shard`).

  Args:
    directory: directory of the store; created if missing. An incomplete last
      line of the own file, left by a kill, is removed with a warning.
    fingerprint: fingerprint of the judge, such as
      `PairwiseJudgeConfig.fingerprint`.
    provenance: how the labels are made, as JSON values; written to each line
      with the fingerprint.
    writer: name of the own file. If another process has locked it, the next
      free name is used.

  Attributes:
    usage: usage of this judge, including earlier runs.
    requested: number of pairs that `fill` passed to its `label_fn`.

  Raises:
    ValueError: a complete line is not a chunk of labels.
  """

  def __init__(
    self,
    directory: str | os.PathLike,
    *,
    fingerprint: str,
    provenance: records.Row | None = None,
    writer: str = "labels",
  ):
    self._directory = pathlib.Path(directory)
    self._directory.mkdir(parents=True, exist_ok=True)
    self._judge = {"fingerprint": fingerprint, **(provenance or {})}
    self._fingerprint = fingerprint
    self._writer = writer
    self._file: BinaryIO | None = None
    self._read_to: dict[pathlib.Path, tuple[int, int]] = {}  # bytes, lines
    self.usage = records.Usage()
    self.requested = 0
    self._namesakes: collections.Counter[str] = collections.Counter()
    # An empty name is a temporary file, deleted when the connection closes.
    self._table = sqlite3.connect("", isolation_level=None)
    self._table.execute("PRAGMA cache_size = -65536")  # 64 MiB at most
    self._table.execute("CREATE TABLE rows (row TEXT)")
    self._table.execute("CREATE TABLE places (key INTEGER PRIMARY KEY, place)")
    self.refresh()
    for name, count in self._namesakes.items():
      logging.warning(
        "%s: %d labels are of %s, another model of the same name as %s; they "
        "are not used.",
        directory,
        count,
        name,
        self._judge["backend"],
      )

  def close(self) -> None:
    """Unlocks the own file and deletes the table."""
    if self._file is not None:
      self._file.close()
    self._table.close()

  def refresh(self) -> None:
    """Reads the lines appended since, by this process or another."""
    for path in sorted(self._directory.glob("*.jsonl")):
      begin, number = self._read_to.get(path, (0, 0))
      if path.stat().st_size == begin:
        continue
      with open(path, "rb") as f:
        f.seek(begin)
        self._table.execute("BEGIN")
        for line in f:
          if not line.endswith(b"\n"):
            break  # The process that writes it is not done, or was killed.
          number += 1
          begin += len(line)
          self._add_line(line, f"{path}:{number}")
        self._table.execute("COMMIT")
      self._read_to[path] = begin, number

  def _add_line(self, line: bytes, where: str) -> None:
    try:
      chunk = parsing.json_value(line)
      usage = records.from_row(records.Usage, chunk["usage"])
      if chunk["judge"]["fingerprint"] == self._fingerprint:
        self._insert(chunk["labels"])
        self.usage += usage
      elif self._is_namesake(chunk["judge"]):
        self._namesakes[chunk["judge"]["backend"]] += len(chunk["labels"])
    except parsing.ERRORS as error:
      raise ValueError(
        f"{where}: not a chunk of labels ({parsing.reason(error)}). Delete "
        "this line; its pairs are then labelled again"
      ) from error

  def _is_namesake(self, judge: records.Row) -> bool:
    """Whether a judge differs in the content of a model NAME@HASH alone."""
    names = [
      str(row.get("backend", "")).rpartition("@")[0]
      for row in (judge, self._judge)
    ]
    rest = [
      {k: v for k, v in row.items() if k not in ("fingerprint", "backend")}
      for row in (judge, self._judge)
    ]
    return bool(names[0]) and names[0] == names[1] and rest[0] == rest[1]

  def _insert(self, labels: Sequence[records.Row]) -> None:
    for row in labels:
      key = _number(row.pop("key"))
      records.from_row(records.Preference, {**_NO_PAIR, **row})
      place = self._table.execute(
        "INSERT INTO rows VALUES (?)", (jsonl.dump_row(row),)
      ).lastrowid
      # The first label of a pair is kept.
      self._table.execute(
        "INSERT OR IGNORE INTO places VALUES (?, ?)", (key, place)
      )

  def _own_file(self) -> BinaryIO:
    """Returns the locked file to append to, without an incomplete line."""
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
          "%s: removed %d bytes of an incomplete chunk; its pairs are labelled "
          "again.",
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
    """Returns the stored rows by key; keys without a row are left out."""
    key_of = {_number(key): key for key in keys}
    result = {}
    for begin in range(0, len(key_of), _BATCH):
      batch = list(key_of)[begin : begin + _BATCH]
      marks = ",".join("?" * len(batch))
      query = (
        "SELECT key, row FROM places JOIN rows ON rows.rowid = place "
        f"WHERE key IN ({marks})"
      )
      for number, row in self._table.execute(query, batch):
        result[key_of[number]] = row
    return result

  def missing(self, pairs: Iterable[records.Pair]) -> list[records.Pair]:
    """Returns pairs without a label; of pairs with equal texts, the first."""
    by_key = {}
    for pair in pairs:
      by_key.setdefault(self._key(pair), pair)
    stored = self._rows(list(by_key))
    return [pair for key, pair in by_key.items() if key not in stored]

  def add(
    self, preferences: Sequence[records.Preference], usage: records.Usage
  ) -> None:
    """Appends a chunk of labels and its usage; returns after fsync.

    Nothing is appended without labels and usage.
    """
    if not preferences and usage == records.Usage():
      return
    chunk = {
      "judge": self._judge,
      "labels": [
        {
          "key": self._key(preference),
          "labeler": preference.labeler,
          "p_first": preference.p_first,
          "p_orders": preference.p_orders,
          "rationales": preference.rationales,
          "p_rationales": preference.p_rationales,
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
    self.refresh()  # Reads the chunk back from disk.

  def fill(
    self,
    pairs: Iterable[records.Pair],
    label_fn: LabelFn,
    *,
    chunk_size: int,
    progress: Callable[[int], None] | None = None,
  ) -> None:
    """Labels the pairs without a label, one chunk at a time.

    Chunks are fixed slices of `pairs`. After a kill the next run labels the
    whole incomplete chunk again and no other, so that the labels are bit-exact
    even if the backend's last digits depend on the batch.

    Args:
      pairs: all pairs, in the same order in each run; may be a stream.
      label_fn: labels pairs, such as `judges.judge_pairs` with its arguments
        bound. It may leave out pairs without a valid judgment; the next run
        requests them again.
      chunk_size: number of pairs per chunk.
      progress: called after each chunk with the number of pairs done.
    """
    done = 0
    for chunk in batched(pairs, chunk_size):
      self.refresh()
      missing = self.missing(chunk)
      if missing:
        self.add(*label_fn(missing))
        self.requested += len(missing)
      done += len(chunk)
      if progress is not None:
        progress(done)

  def labels(
    self, pairs: Iterable[records.Pair]
  ) -> Iterator[records.Preference]:
    """Yields the labels in the order of the pairs; skips pairs without one."""
    for chunk in batched(pairs, _BATCH):
      keys = [self._key(pair) for pair in chunk]
      rows = self._rows(keys)
      for key, pair in zip(keys, chunk, strict=True):
        if key in rows:
          label = json.loads(rows[key])
          yield records.Preference(**vars(pair), **label)


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
  """Yields lists of `size` items; the last one may be shorter.

  Raises:
    ValueError: `size` is below 1.
  """
  if size < 1:
    raise ValueError(f"chunk_size is {size}; it must be >= 1")
  stream = iter(items)
  while chunk := list(itertools.islice(stream, size)):
    yield chunk


def _number(key: str) -> int:
  """Converts a content id to SQLite's signed 64-bit integer."""
  return int(key, 16) - 2**63
