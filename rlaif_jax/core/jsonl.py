# SPDX-License-Identifier: Apache-2.0
"""JSONL files of records: atomic writes, and errors that name file and line.

A bad line either raises, or goes to a quarantine file with the reason.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import math
import os
import pathlib
from typing import Any, Callable, Iterable, Iterator, TypeVar
import uuid
import zlib

from absl import logging

from rlaif_jax.core import inputs
from rlaif_jax.core import parsing
from rlaif_jax.core import records

T = TypeVar("T")

# A longer line is a bad one; it is not parsed.
MAX_LINE = 32 << 20  # bytes
# Maximum number of characters of a bad row in a quarantine file.
KEPT = 10_000


def write_text(path: str | os.PathLike, text: str) -> None:
  """Writes a file atomically."""
  _write_lines(path, [text])


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
  """Writes a file of bytes atomically."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = partial_of(path)
  partial.write_bytes(data)
  os.replace(partial, path)


def partial_of(path: pathlib.Path) -> pathlib.Path:
  """Returns a new temporary path beside a file.

  It is unique among hosts that share the folder, even if process ids collide.
  """
  return path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")


def _write_lines(path: str | os.PathLike, lines: Iterable[str]) -> None:
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = partial_of(path)
  # Half a surrogate pair is no UTF-8; as "\\ud800" it is still JSON.
  with open(partial, "w", encoding="utf-8", errors="backslashreplace") as f:
    for line in lines:
      f.write(line)
    f.flush()
    os.fsync(f.fileno())
  os.replace(partial, path)


def dump_row(row: object) -> str:
  """Returns a line of JSON; equal rows give equal lines.

  A number that is not finite, such as the mean of no values, becomes null.
  """
  settings = dict(ensure_ascii=False, sort_keys=True, allow_nan=False)
  try:
    return json.dumps(row, **settings)
  except ValueError:
    return json.dumps(finite(row), **settings)


def finite(value: object) -> object:
  """Returns a value for JSON with None for numbers that are not finite."""
  if isinstance(value, dict):
    return {key: finite(part) for key, part in value.items()}
  if isinstance(value, (list, tuple)):
    return [finite(part) for part in value]
  is_number = isinstance(value, float)
  return None if is_number and not math.isfinite(value) else value


def write_rows(path: str | os.PathLike, rows: Iterable[object]) -> None:
  """Writes JSON objects, one per line, atomically."""
  _write_lines(path, (dump_row(row) + "\n" for row in rows))


def cut_torn_line(path: str | os.PathLike) -> int:
  """Removes an incomplete last line and returns its number of bytes.

  A process that was killed while it appended leaves one. Returns 0 if the file
  does not exist. Memory use does not depend on the size of the file.
  """
  if not os.path.exists(path):
    return 0
  with open(path, "r+b") as f:
    size = f.seek(0, os.SEEK_END)
    whole = size
    while whole:
      begin = max(0, whole - 65536)
      f.seek(begin)
      found = f.read(whole - begin).rfind(b"\n")
      if found >= 0:
        whole = begin + found + 1
        break
      whole = begin
    if whole < size:
      f.truncate(whole)
      f.flush()
      os.fsync(f.fileno())
    return size - whole


def write_records(path: str | os.PathLike, rows: Iterable[object]) -> int:
  """Writes records, one per line, atomically; returns their number."""
  count = 0

  def lines():
    nonlocal count
    for row in rows:
      count += 1
      yield dump_row(records.to_row(row)) + "\n"

  _write_lines(path, lines())
  return count


def read_lines(path: str | os.PathLike) -> Iterator[tuple[int, bytes]]:
  """Yields (line number from 1, line) of a .jsonl or .jsonl.gz file.

  Lines are bytes, so that invalid UTF-8 makes one bad line and not a bad file.
  Of a line over MAX_LINE bytes, MAX_LINE + 1 are returned.

  Raises:
    ValueError: a .gz file is truncated or damaged; names file and line.
  """
  inputs.note(path)
  opener = gzip.open if str(path).endswith(".gz") else open
  number = 0
  with opener(path, "rb") as f:
    while True:
      number += 1
      try:
        line = rest = f.readline(MAX_LINE + 1)
        while len(rest) > MAX_LINE and not rest.endswith(b"\n"):
          rest = f.readline(MAX_LINE + 1)
      except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(
          f"{path}:{number}: the file is truncated or damaged: {error}; get "
          "it again"
        ) from error
      if not line:
        return
      if line.strip():
        yield number, line


def parse_line(line: bytes) -> object:
  """Returns the JSON value of a line.

  Raises:
    ValueError: it is over MAX_LINE bytes, or see `parsing.json_value`.
  """
  if len(line) > MAX_LINE:
    raise ValueError(f"the line has more than {MAX_LINE} bytes")
  return parsing.json_value(line)


def as_text(line: bytes) -> str:
  """Returns a line as text, with invalid UTF-8 escaped."""
  return line.decode("utf-8", "backslashreplace").rstrip("\n")


class Quarantine:
  """Collects bad rows with their reasons, for a file beside the result."""

  def __init__(self):
    self.rows: list[records.Row] = []

  def add(self, *, where: str, reason: str, row: object) -> None:
    """Adds a row; a long text is cut."""
    if isinstance(row, str):
      row = row[:KEPT]
    else:  # Parquet may hold values that JSON does not have.
      row = json.loads(json.dumps(row, default=str))
    self.rows.append({"where": where, "reason": reason[:KEPT], "row": row})

  def counts(self) -> dict[str, int]:
    """Returns the number of rows by reason."""
    result: dict[str, int] = {}
    for row in self.rows:
      result[row["reason"]] = result.get(row["reason"], 0) + 1
    return result

  def describe(self, path: str | os.PathLike) -> records.Row:
    """Writes the rows, and returns what a job's result has about them.

    A file that was read twice counts once.
    """
    self.rows = list({row["where"]: row for row in self.rows}.values())
    if not self.write(path):
      return {}
    first = self.rows[0]
    logging.warning(
      "%d bad rows of input files are left out, see %s; the first is %s: %s",
      len(self.rows),
      path,
      first["where"],
      first["reason"],
    )
    return {
      "quarantined_input": len(self.rows),
      "quarantined_input_reasons": self.counts(),
    }

  def write(self, path: str | os.PathLike) -> int:
    """Writes the rows, if there are any; returns their number."""
    if self.rows:
      write_rows(path, self.rows)
    return len(self.rows)


_of_run: Quarantine | None = None


@contextlib.contextmanager
def quarantining_input() -> Iterator[Quarantine]:
  """Collects the bad rows of a job's input files; see `of_run`."""
  global _of_run
  before, _of_run = _of_run, Quarantine()
  try:
    yield _of_run
  finally:
    _of_run = before


def of_run() -> Quarantine | None:
  """Returns where a running job puts bad rows of its input files.

  It is None outside of `quarantining_input`: a bad row is an error there.
  """
  return _of_run


def row_of(value: object) -> records.Row:
  """Returns a JSON value that is an object; raises ValueError for others."""
  if not isinstance(value, dict):
    raise ValueError(f"expected an object, found {value!r:.60}")
  return value


def parse_rows(
  path: str | os.PathLike,
  parse: Callable[[Any], T],
  quarantine: Quarantine | None = None,
) -> list[T]:
  """Parses every line of a JSONL file; see `stream_rows`."""
  return list(stream_rows(path, parse, quarantine))


def stream_rows(
  path: str | os.PathLike,
  parse: Callable[[Any], T],
  quarantine: Quarantine | None = None,
) -> Iterator[T]:
  """Yields the parsed lines of a JSONL file.

  Args:
    path: .jsonl or .jsonl.gz.
    parse: decoded line -> record; raises one of `parsing.ERRORS` for a bad
      one.
    quarantine: receives the bad lines; None raises for the first one.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if a line is bad, or all lines are and the quarantine is that
      of a run; names file and line number.
  """
  lines, count, first = read_lines(path), 0, None
  while True:
    where, line = str(path), b""
    try:
      number, line = next(lines, (0, b""))
      if not number:
        break
      where = f"{path}:{number}"
      row = parse(parse_line(line))
    except OSError:
      raise
    except parsing.ERRORS as error:
      if quarantine is None:
        raise bad_line(where, error) from error
      first = first or error
      reason = parsing.reason(error)
      quarantine.add(where=where, reason=reason, row=as_text(line[:KEPT]))
      continue
    count += 1
    yield row
  if first is not None and not count and quarantine is _of_run:
    raise ValueError(f"{path}: no row is valid; the first: {first}")


def bad_line(where: str, error: Exception) -> ValueError:
  """Returns the error of a bad line; `where` is FILE:NUMBER."""
  reason = parsing.reason(error)
  where = "" if reason.startswith(where) else f"{where}: "
  return ValueError(
    f"{where}{reason}. Fix or delete this line, then run the same command "
    "again."
  )


def read_records(
  cls: type[T],
  path: str | os.PathLike,
  quarantine: Quarantine | None = None,
) -> list[T]:
  """Reads a file of records of one class; see `parse_rows`."""
  return parse_rows(path, lambda row: records.from_row(cls, row), quarantine)


def stream_records(
  cls: type[T],
  path: str | os.PathLike,
  quarantine: Quarantine | None = None,
) -> Iterator[T]:
  """Yields the records of a file; see `stream_rows`."""
  return stream_rows(path, lambda row: records.from_row(cls, row), quarantine)
