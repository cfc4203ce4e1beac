# SPDX-License-Identifier: Apache-2.0
"""JSONL files of records: read with the line named, written atomically.

A file that is written whole appears whole or not at all. Bad lines either
raise, naming file and line, or go to a quarantine file with the reason.
"""

from __future__ import annotations

import gzip
import json
import os
import pathlib
from typing import Any, Callable, Iterable, Iterator, TypeVar

from rlaif_jax.core import records

T = TypeVar("T")


def write_text(path: str | os.PathLike, text: str) -> None:
  """Writes a file so that it is never seen half-written."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
  with open(partial, "w", encoding="utf-8") as f:
    f.write(text)
    f.flush()
    os.fsync(f.fileno())
  os.replace(partial, path)


def dump_row(row: Any) -> str:
  """One line of JSON: the same bytes for the same row."""
  return json.dumps(row, ensure_ascii=False, sort_keys=True)


def write_records(path: str | os.PathLike, rows: Iterable[Any]) -> int:
  """Writes records, one a line, atomically; returns how many."""
  lines = [dump_row(records.to_row(row)) for row in rows]
  write_text(path, "".join(line + "\n" for line in lines))
  return len(lines)


def read_lines(path: str | os.PathLike) -> Iterator[tuple[int, str]]:
  """Yields (line number from 1, line) of a .jsonl or .jsonl.gz file."""
  opener = gzip.open if str(path).endswith(".gz") else open
  with opener(path, "rt", encoding="utf-8") as f:
    for number, line in enumerate(f, start=1):
      if line.strip():
        yield number, line


class Quarantine:
  """Collects single bad rows with the reason; written beside the result."""

  def __init__(self):
    self.rows: list[dict[str, Any]] = []

  def add(self, *, where: str, reason: str, row: Any) -> None:
    self.rows.append({"where": where, "reason": reason, "row": row})

  def counts(self) -> dict[str, int]:
    """How many rows were set aside, by reason."""
    result: dict[str, int] = {}
    for row in self.rows:
      result[row["reason"]] = result.get(row["reason"], 0) + 1
    return result

  def write(self, path: str | os.PathLike) -> int:
    """Writes the rows; the file exists only when there is one."""
    if self.rows:
      write_text(path, "".join(dump_row(row) + "\n" for row in self.rows))
    return len(self.rows)


def parse_rows(
  path: str | os.PathLike,
  parse: Callable[[Any], T],
  quarantine: Quarantine | None = None,
) -> list[T]:
  """Parses every line of a JSONL file.

  Args:
    path: .jsonl or .jsonl.gz.
    parse: makes a record of a decoded line; raises ValueError, KeyError or
      TypeError for a bad one.
    quarantine: takes the bad lines; None makes the first one an error.

  Raises:
    FileNotFoundError: no such file.
    ValueError: a bad line, named by file and line number.
  """
  result = []
  for number, line in read_lines(path):
    try:
      result.append(parse(json.loads(line)))
    except (ValueError, KeyError, TypeError) as error:
      where = f"{path}:{number}"
      if quarantine is None:
        raise ValueError(
          f"{where}: {error}. Mend or delete this line, then run the same "
          "command again."
        ) from error
      quarantine.add(where=where, reason=str(error), row=line.rstrip("\n"))
  return result


def read_records(
  cls: type[T],
  path: str | os.PathLike,
  quarantine: Quarantine | None = None,
) -> list[T]:
  """Reads a file of records of one class; see `parse_rows`."""
  return parse_rows(path, lambda row: records.from_row(cls, row), quarantine)
