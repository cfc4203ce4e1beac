# SPDX-License-Identifier: Apache-2.0
"""What people say of responses: who sees what in which order, and the log.

Every click is a line of an append-only file before it is acknowledged; what a
rater has said of an item is the last line about it. Raters see items and
responses in orders of their own, which depend on nothing but names and a
seed. Knows nothing of HTTP.
"""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import json
import os
import pathlib
import re
import threading
import time
from typing import Any, Iterator, Sequence

from absl import logging

from rlaif_jax.core import jsonl
from rlaif_jax.core import records

MODES = ("rank", "harmful")

_RATER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")


class Conflict(ValueError):
  """An answer to a state of the item that is no more."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Item:
  """A context with its responses; `names` says whose they are."""

  id: str
  context: str
  names: tuple[str, ...]
  responses: tuple[str, ...]

  def __post_init__(self):
    least = min(len(self.names), len(self.responses))
    if len(self.names) != len(self.responses) or not 1 <= least <= 9:
      raise ValueError(
        f"item {self.id}: {len(self.names)} names and {len(self.responses)} "
        "responses; there should be as many, from 1 to 9"
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
  """A rater's last word on an item.

  `picks` are names: all of them, the best first, or those that are harmful.
  `version` counts the lines about it; before `final` the rater is at it.
  """

  rater: str
  item: str
  picks: tuple[str, ...] = ()
  final: bool = False
  version: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
  """What a rater sees: `shown` are the item's names in the rater's order."""

  item: Item
  shown: tuple[str, ...]
  answer: Answer
  number: int  # from 1
  count: int


class AnswerLog:
  """The answers of all raters, on disk.

  Args:
    path: answers.jsonl; a last line that was torn by a kill is cut off.
    items: to be rated.
    mode: "rank" (without ties) or "harmful".
    seed: of the orders.
    items_per_rater: 0: all.

  Raises:
    ValueError: no items, two with one id, an unknown mode, a log of another
      mode, or one that another process holds.
  """

  def __init__(
    self,
    path: str | os.PathLike,
    items: Sequence[Item],
    *,
    mode: str,
    seed: int = 0,
    items_per_rater: int = 0,
  ):
    if mode not in MODES:
      raise ValueError(f"mode is {mode!r}; take one of {MODES}")
    self.mode = mode
    self._items = {item.id: item for item in items}
    if len(self._items) != len(items) or not items:
      raise ValueError(
        f"{len(items)} items have {len(self._items)} ids; give one or more, "
        "each with an id of its own"
      )
    self._seed = str(seed)
    self._count = min(items_per_rater or len(items), len(items))
    self._answers: dict[tuple[str, str], Answer] = {}
    self._kept: set[tuple[str, str]] = set()
    self._lock = threading.Lock()
    self._path = pathlib.Path(path)
    self._path.parent.mkdir(parents=True, exist_ok=True)
    self._file = open(self._path, "ab", buffering=0)
    try:
      fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      self._file.close()
      raise ValueError(
        f"{path} is in use by another process; stop it, or use another "
        "--output_dir"
      ) from None
    self._read()

  def _read(self) -> None:
    if jsonl.cut_torn_line(self._path):
      logging.warning(
        "%s: cut off a click that was not written to its end.", self._path
      )
    lines = self._path.read_bytes().splitlines()
    for number, line in enumerate(lines, start=1):
      try:
        row = json.loads(line)
        mode, answer = row["mode"], _from_row(row)
      except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
          f"{self._path}:{number}: not a click ({error}). Delete this line"
        ) from error
      if mode != self.mode:
        raise ValueError(
          f"{self._path}:{number}: mode is {mode!r} and this run's is "
          f"{self.mode!r}; use another --output_dir"
        )
      self._take(answer)

  def _take(self, answer: Answer) -> Answer:
    key = answer.rater, answer.item
    version = self._answers[key].version + 1 if key in self._answers else 1
    self._answers[key] = dataclasses.replace(answer, version=version)
    return self._answers[key]

  def close(self) -> None:
    """Frees the log for another process."""
    self._file.close()

  def view(self, rater: str) -> View | None:
    """The first item that the rater has not finished; None after the last.

    Raises:
      ValueError: no name of a rater.
    """
    self._check(rater)
    with self._lock:
      return self._view(rater)

  def put(
    self,
    rater: str,
    item: str,
    picks: Sequence[int],
    *,
    final: bool,
    version: int,
  ) -> Answer:
    """Writes a click down; it is on disk when this returns.

    Args:
      rater: who clicked.
      item: its id.
      picks: places in the rater's order, the best first or those that are
        harmful: all that is picked now.
      final: the rater is done with the item.
      version: of the state that the rater saw. The same click again, whose
        acknowledgement was lost, changes nothing.

    Raises:
      Conflict: the rater has clicked elsewhere since.
      ValueError: no such item or place, a place twice, or a final ranking
        that is not whole.
    """
    self._check(rater)
    if item not in self._items:
      raise ValueError(f"item is {item!r:.40}; there is none of this id")
    shown = self.shown(rater, item)
    if len(set(picks)) < len(picks) or not set(picks) <= set(range(len(shown))):
      raise ValueError(
        f"picks are {list(picks)}; each should be from 0 to {len(shown) - 1}, "
        "and none twice"
      )
    if final and self.mode == "rank" and len(picks) < len(shown):
      raise ValueError(
        f"{len(picks)} of {len(shown)} responses are ranked; rank all of them"
      )
    said = Answer(
      rater=rater,
      item=item,
      picks=tuple(shown[place] for place in picks),
      final=final,
    )
    with self._lock:
      now = self._answers.get((rater, item), Answer(rater=rater, item=item))
      if dataclasses.replace(said, version=now.version) == now:
        return now
      if version != now.version or (rater, item) in self._kept:
        raise Conflict("this was answered in another window; look again")
      return self._write(said)

  def back(self, rater: str) -> View | None:
    """Opens the item again that the rater has finished last.

    Not one that `keep` has taken: then, and at the first, nothing changes.
    """
    self._check(rater)
    with self._lock:
      finished = [
        self._answers[rater, item]
        for item in self._order(rater)
        if self._is_final(rater, item)
      ]
      if finished and (rater, finished[-1].item) not in self._kept:
        self._write(dataclasses.replace(finished[-1], final=False))
      return self._view(rater)

  def keep(self) -> list[Answer]:
    """The finished answers, which no rater can change from now on."""
    with self._lock:
      final = self._final()
      self._kept |= {(answer.rater, answer.item) for answer in final}
      return final

  def finished(self) -> list[Answer]:
    """The finished answers to the items, by rater and item."""
    with self._lock:
      return self._final()

  def raters_done(self) -> int:
    """How many raters have finished all that they are to rate."""
    with self._lock:
      names = {rater for rater, _ in self._answers}
      return sum(self._view(rater) is None for rater in names)

  def shown(self, rater: str, item: str) -> tuple[str, ...]:
    """The names of an item's responses in the rater's order."""

    def place(name: str) -> str:
      return records.content_id("place", self._seed, rater, item, name)

    return tuple(sorted(self._items[item].names, key=place))

  def _check(self, rater: str) -> None:
    if not _RATER.fullmatch(rater):
      raise ValueError(
        f"the rater's name is {rater!r:.60}; it should have 1 to 40 letters, "
        "digits, dots, dashes and underscores"
      )

  def _order(self, rater: str) -> Iterator[str]:
    def place(item: str) -> str:
      return records.content_id("item", self._seed, rater, item)

    yield from sorted(self._items, key=place)[: self._count]

  def _is_final(self, rater: str, item: str) -> bool:
    answer = self._answers.get((rater, item))
    return answer is not None and answer.final

  def _view(self, rater: str) -> View | None:
    for number, item in enumerate(self._order(rater), start=1):
      if not self._is_final(rater, item):
        empty = Answer(rater=rater, item=item)
        return View(
          item=self._items[item],
          shown=self.shown(rater, item),
          answer=self._answers.get((rater, item), empty),
          number=number,
          count=self._count,
        )
    return None

  def _final(self) -> list[Answer]:
    return [
      answer
      for (_, item), answer in sorted(self._answers.items())
      if answer.final and item in self._items
    ]

  def _write(self, answer: Answer) -> Answer:
    row = {
      "mode": self.mode,
      "rater": answer.rater,
      "item": answer.item,
      "picks": answer.picks,
      "shown": self.shown(answer.rater, answer.item),
      "final": answer.final,
      "time": round(time.time(), 3),
    }
    line = (jsonl.dump_row(row) + "\n").encode("utf-8")
    size = os.fstat(self._file.fileno()).st_size
    try:
      if self._file.write(line) < len(line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
      os.fsync(self._file.fileno())
    except OSError:
      os.truncate(self._path, size)  # No half line before the next click.
      raise
    return self._take(answer)


def _from_row(row: dict[str, Any]) -> Answer:
  return Answer(
    rater=row["rater"],
    item=row["item"],
    picks=tuple(row["picks"]),
    final=row["final"],
  )
