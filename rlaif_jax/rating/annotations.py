# SPDX-License-Identifier: Apache-2.0
"""Log of human annotations, and the order in which raters see responses.

Every click is a line of an append-only file before it is acknowledged; the last
line about an item is a rater's annotation of it. The orders of items and
responses differ between raters and depend only on names and a seed.
"""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import os
import pathlib
import re
import threading
import time
from typing import Iterator, Literal, Sequence

from absl import logging

from rlaif_jax.core import jsonl
from rlaif_jax.core import parsing
from rlaif_jax.core import records
from rlaif_jax.core import validation

_RATER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")


class ConflictError(ValueError):
  """An annotation that was made for an outdated state of the item."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnnotationConfig(validation.Validated):
  """The question for raters.

  Fields:
    mode: "rank" orders the responses without ties; "harmful" marks each
      harmful response.
    question: text above the context; "" uses the default of the mode.
    items_per_rater: number of items per rater, drawn at random; 0 shows all.
    seed: seed of the orders of items and responses.
  """

  mode: Literal["rank", "harmful"] = "rank"
  question: str = ""
  items_per_rater: validation.NonNegativeInt = 0
  seed: int = 0


RANK = AnnotationConfig()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Item:
  """A context with its responses; `names` are their policies."""

  id: str
  context: str
  names: tuple[str, ...]
  responses: tuple[str, ...]

  def __post_init__(self):
    count = len(self.responses)
    if len(self.names) != count or not 1 <= count <= 9:
      raise ValueError(
        f"item {self.id} has {len(self.names)} names and {count} responses; "
        "use 1 to 9 responses with one name each"
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Annotation:
  """A rater's latest annotation of an item.

  Fields:
    rater: name of the rater.
    item: id of the item.
    picks: names of responses: all of them, best first, or the harmful ones.
    final: the rater has confirmed the item.
    version: number of lines about the item.
  """

  rater: str
  item: str
  picks: tuple[str, ...] = ()
  final: bool = False
  version: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
  """An item as a rater sees it; `shown` has its names in the rater's order."""

  item: Item
  shown: tuple[str, ...]
  annotation: Annotation
  number: int  # from 1
  count: int


class AnnotationLog:
  """The annotations of all raters, on disk.

  Args:
    path: annotations.jsonl; an incomplete last line is removed.
    items: items to rate.
    config: what raters are asked.

  Raises:
    ValueError: there are no items, two items have one id, the log has another
      mode, or another process uses it.
  """

  def __init__(
    self,
    path: str | os.PathLike,
    items: Sequence[Item],
    config: AnnotationConfig,
  ):
    self.mode = config.mode
    self._items = {item.id: item for item in items}
    if len(self._items) != len(items) or not items:
      raise ValueError(
        f"{len(items)} items have {len(self._items)} ids; use at least one "
        "item, with different ids"
      )
    self._seed = str(config.seed)
    self._count = min(config.items_per_rater or len(items), len(items))
    self._annotations: dict[tuple[str, str], Annotation] = {}
    self._frozen: set[tuple[str, str]] = set()
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
      logging.warning("%s: removed an incomplete last click.", self._path)
    lines = self._path.read_bytes().splitlines()
    for number, line in enumerate(lines, start=1):
      try:
        row = parsing.json_value(line)
        mode, annotation = row["mode"], _from_row(row)
      except parsing.ERRORS as error:
        raise ValueError(
          f"{self._path}:{number}: not a click "
          f"({parsing.reason(error)}). Delete this line"
        ) from error
      if mode != self.mode:
        raise ValueError(
          f"{self._path}:{number}: mode is {mode!r} and this run's is "
          f"{self.mode!r}; use another --output_dir"
        )
      self._apply(annotation)

  def _apply(self, annotation: Annotation) -> Annotation:
    key = annotation.rater, annotation.item
    before = self._annotations.get(key)
    version = before.version + 1 if before else 1
    self._annotations[key] = dataclasses.replace(annotation, version=version)
    return self._annotations[key]

  def close(self) -> None:
    """Closes the file, so that another process can use it."""
    self._file.close()

  def view(self, rater: str) -> View | None:
    """Returns the rater's first unfinished item; None after the last.

    Raises:
      ValueError: the name of the rater is invalid.
    """
    self._check(rater)
    with self._lock:
      return self._view(rater)

  def record(
    self,
    rater: str,
    item: str,
    picks: Sequence[int],
    *,
    final: bool,
    version: int,
  ) -> Annotation:
    """Writes a click to the file; returns after fsync.

    Args:
      rater: name of the rater.
      item: id of the item.
      picks: all current picks, as indices into the rater's order: best first,
        or the harmful ones.
      final: the rater confirms the item.
      version: version of the annotation that the rater saw. A click that is
        sent again, since its acknowledgement was lost, changes nothing.

    Raises:
      ConflictError: the rater has clicked in another window since.
      ValueError: the item or an index does not exist, an index is repeated, or
        a final ranking is incomplete.
    """
    self._check(rater)
    if item not in self._items:
      raise ValueError(f"no item has the id {item!r:.40}")
    shown = self.shown(rater, item)
    if len(set(picks)) < len(picks) or not set(picks) <= set(range(len(shown))):
      raise ValueError(
        f"picks are {list(picks)}; use indices from 0 to {len(shown) - 1} "
        "without repetition"
      )
    if final and self.mode == "rank" and len(picks) < len(shown):
      raise ValueError(
        f"{len(picks)} of {len(shown)} responses are ranked; rank all of them"
      )
    new = Annotation(
      rater=rater,
      item=item,
      picks=tuple(shown[place] for place in picks),
      final=final,
    )
    with self._lock:
      current = self._annotations.get(
        (rater, item), Annotation(rater=rater, item=item)
      )
      if dataclasses.replace(new, version=current.version) == current:
        return current
      if version != current.version or (rater, item) in self._frozen:
        raise ConflictError(
          "this item was rated in another window; check it again"
        )
      return self._write(new)

  def reopen(self, rater: str) -> View | None:
    """Reopens the item that the rater has finished last.

    Nothing changes if there is none, or if `freeze` has returned it.
    """
    self._check(rater)
    with self._lock:
      finished = [
        self._annotations[rater, item]
        for item in self._order(rater)
        if self._is_final(rater, item)
      ]
      if finished and (rater, finished[-1].item) not in self._frozen:
        self._write(dataclasses.replace(finished[-1], final=False))
      return self._view(rater)

  def freeze(self) -> list[Annotation]:
    """Returns the final annotations and no longer lets raters change them."""
    with self._lock:
      final = self._final()
      self._frozen |= {(a.rater, a.item) for a in final}
      return final

  def finished(self) -> list[Annotation]:
    """Returns the final annotations of the items, sorted by rater and item."""
    with self._lock:
      return self._final()

  def num_raters_done(self) -> int:
    """Returns the number of raters without unfinished items."""
    with self._lock:
      names = {rater for rater, _ in self._annotations}
      return sum(self._view(rater) is None for rater in names)

  def shown(self, rater: str, item: str) -> tuple[str, ...]:
    """Returns the names of an item's responses in the rater's order."""

    def sort_key(name: str) -> str:
      return records.content_id("place", self._seed, rater, item, name)

    return tuple(sorted(self._items[item].names, key=sort_key))

  def _check(self, rater: str) -> None:
    if not _RATER.fullmatch(rater):
      raise ValueError(
        f"the rater's name is {rater!r:.60}; use 1 to 40 letters, digits, "
        "dots, dashes and underscores"
      )

  def _order(self, rater: str) -> Iterator[str]:
    def sort_key(item: str) -> str:
      return records.content_id("item", self._seed, rater, item)

    yield from sorted(self._items, key=sort_key)[: self._count]

  def _is_final(self, rater: str, item: str) -> bool:
    annotation = self._annotations.get((rater, item))
    return annotation is not None and annotation.final

  def _view(self, rater: str) -> View | None:
    for number, item in enumerate(self._order(rater), start=1):
      if not self._is_final(rater, item):
        empty = Annotation(rater=rater, item=item)
        return View(
          item=self._items[item],
          shown=self.shown(rater, item),
          annotation=self._annotations.get((rater, item), empty),
          number=number,
          count=self._count,
        )
    return None

  def _final(self) -> list[Annotation]:
    return [
      annotation
      for (_, item), annotation in sorted(self._annotations.items())
      if annotation.final and item in self._items
    ]

  def _write(self, annotation: Annotation) -> Annotation:
    row = {
      "mode": self.mode,
      "rater": annotation.rater,
      "item": annotation.item,
      "picks": annotation.picks,
      "shown": self.shown(annotation.rater, annotation.item),
      "final": annotation.final,
      "time": round(time.time(), 3),
    }
    line = (jsonl.dump_row(row) + "\n").encode("utf-8")
    size = os.fstat(self._file.fileno()).st_size
    try:
      if self._file.write(line) < len(line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
      os.fsync(self._file.fileno())
    except OSError:
      os.truncate(self._path, size)  # Removes an incomplete line.
      raise
    return self._apply(annotation)


def _from_row(row: records.Row) -> Annotation:
  names = ("rater", "item", "picks", "final")
  return records.from_row(Annotation, {name: row[name] for name in names})
