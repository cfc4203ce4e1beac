# SPDX-License-Identifier: Apache-2.0
"""Records of a JSONL file of any size, read when they are indexed."""

from __future__ import annotations

import copy
import gzip
import os
from typing import Sequence, TypeVar

from rlaif_jax.core import inputs
from rlaif_jax.core import jsonl
from rlaif_jax.core import parsing
from rlaif_jax.core import records

T = TypeVar("T")


class RecordsOnDemand(Sequence[T]):
  """The records of a file, each parsed when it is indexed.

  Keeps the offset of each line (or the lines of a .gz file), so that a process
  can read a few rows of a file of any size. Slices are views. With a
  quarantine, each row is parsed once at first, and bad ones are left out.
  """

  def __init__(
    self,
    cls: type[T],
    path: str | os.PathLike,
    quarantine: jsonl.Quarantine | None = None,
  ):
    self._cls = cls
    self._path = path
    self._packed = str(path).endswith(".gz")
    # (line number, beginning or line) of each row.
    self._places: list[tuple[int, int | bytes]] = []
    begin = 0
    inputs.note(path)
    opener = gzip.open if self._packed else open
    with parsing.naming(path), opener(path, "rb") as f:
      for number, line in enumerate(f, start=1):
        if line.strip():
          self._places.append((number, line if self._packed else begin))
        begin += len(line)
    if quarantine is not None:
      self._leave_out(quarantine)

  def _leave_out(self, quarantine: jsonl.Quarantine) -> None:
    valid = []
    for number, place in self._places:
      line = self._line(place)
      try:
        records.from_row(self._cls, jsonl.parse_line(line))
        valid.append((number, place))
      except parsing.ERRORS as error:
        quarantine.add(
          where=f"{self._path}:{number}",
          reason=parsing.reason(error),
          row=jsonl.as_text(line[: jsonl.KEPT]),
        )
    self._places = valid

  def _line(self, place: int | bytes) -> bytes:
    if self._packed:
      return place
    with open(self._path, "rb") as f:
      f.seek(place)
      return f.readline(jsonl.MAX_LINE + 1)

  def __len__(self) -> int:
    return len(self._places)

  def __getitem__(self, index):
    if isinstance(index, slice):
      view = copy.copy(self)
      view._places = self._places[index]
      return view
    number, place = self._places[index]
    line = self._line(place)
    try:
      return records.from_row(self._cls, jsonl.parse_line(line))
    except parsing.ERRORS as error:
      raise jsonl.bad_line(f"{self._path}:{number}", error) from error


def open_records(
  cls: type[T],
  path: str | os.PathLike,
  *,
  on_demand: bool,
  quarantine: jsonl.Quarantine | None = None,
) -> Sequence[T]:
  """Returns the records of a file: a list, or RecordsOnDemand."""
  if on_demand:
    return RecordsOnDemand(cls, path, quarantine)
  return jsonl.read_records(cls, path, quarantine)
