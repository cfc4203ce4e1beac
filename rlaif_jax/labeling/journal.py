# SPDX-License-Identifier: Apache-2.0
"""Journal of paid outputs that are not yet part of a stored chunk of labels.

Wraps the backend of an endpoint and appends each output to a file as it
arrives, so that a kill in the middle of a chunk pays for no output twice. The
outputs of a chunk are deleted once the chunk is in the label store.
"""

from __future__ import annotations

import collections
import json
import math
import os
import pathlib
from typing import Callable, Sequence, TypeVar

from absl import logging

from rlaif_jax.core import jsonl
from rlaif_jax.core import parsing
from rlaif_jax.core import protocols
from rlaif_jax.core import records
from rlaif_jax.core import validation

T = TypeVar("T")


class JournaledBackend:
  """A `protocols.Backend` that requests only outputs missing in its journal.

  Of failed attempts only the usage is recorded. A line is flushed to the
  operating system before the next output is processed: it survives a kill of
  the process, but not a power failure.

  Args:
    backend: backend that computes the outputs.
    path: file of the journal; at most one process may use it.
  """

  def __init__(self, backend: protocols.PaidBackend, path: str | os.PathLike):
    self.name = backend.name
    self._backend = backend
    self._path = pathlib.Path(path)
    self._path.parent.mkdir(parents=True, exist_ok=True)
    self._outputs: dict[str, tuple[records.Output, records.Usage]] = {}
    # Usage of failed attempts, which is not part of an output's.
    self._failed: dict[str, records.Usage] = {}
    self._pending = records.Usage()
    self._read()
    self._file = open(self._path, "ab")

  def _read(self) -> None:
    """Reads the file and truncates an incomplete last line."""
    if not self._path.exists():
      return
    if jsonl.cut_torn_line(self._path):
      logging.warning("%s: removed an incomplete last output.", self._path)
    lines = self._path.read_bytes().splitlines()
    for number, line in enumerate(lines, start=1):
      with parsing.naming(f"{self._path}:{number}"):
        row = jsonl.row_of(parsing.json_value(line))
        if "output" in row:
          row["output"] = _output(row["output"])
        self._apply(row)

  def _apply(self, row: records.Row) -> None:
    if "accounted" in row:
      free = records.Usage()
      self._outputs = {key: (o, free) for key, (o, _) in self._outputs.items()}
      self._failed, self._pending = {}, free
      return
    key, usage = row["key"], records.from_row(records.Usage, row["usage"])
    self._pending += usage
    if "output" in row:
      self._outputs[key] = (row["output"], usage)
    else:
      self._failed[key] = self._failed.get(key, records.Usage()) + usage

  def pending(self) -> records.Usage:
    """Returns the usage that is not yet in the label store."""
    return self._pending

  def _write(self, row: records.Row) -> None:
    self._file.write((jsonl.dump_row(row) + "\n").encode("utf-8"))
    self._file.flush()
    self._apply(row)

  def commit(self, *, complete: bool) -> None:
    """Records that the chunk and its usage are in the label store.

    Args:
      complete: all pairs of the chunk have labels, so that its outputs are
        deleted. Otherwise they are kept for the next run, with their usage
        marked as counted.
    """
    if complete:
      self._outputs, self._failed = {}, {}
      self._pending = records.Usage()
      self._file.truncate(0)
    elif self._outputs or self._failed:
      self._write({"accounted": True})

  def prefix_options(self, options: Sequence[str]) -> tuple[int, ...]:
    """See `protocols.Backend`."""
    return self._backend.prefix_options(options)

  def score_options(
    self, prompts: Sequence[str], options: Sequence[str]
  ) -> tuple[list[list[float]], records.Usage]:
    """See `protocols.Backend`."""
    return self._lookup(
      prompts,
      ("score", *options),
      lambda missing: self._backend.score_options(missing, options),
    )

  def complete(
    self, prompts: Sequence[str], **settings: float | str
  ) -> tuple[list[str], records.Usage]:
    """See `protocols.Backend`."""
    return self._lookup(
      prompts,
      ("complete", json.dumps(settings, sort_keys=True)),
      lambda missing: self._backend.complete(missing, **settings),
    )

  def _lookup(
    self,
    prompts: Sequence[str],
    request: tuple[str, ...],
    compute: Callable[[list[str]], tuple[list[T], records.Usage]],
  ) -> tuple[list[T], records.Usage]:
    """Returns the outputs of the prompts; computes those not in the journal."""
    keys = _keys(prompts, (self.name, *request))
    missing = [row for row, key in enumerate(keys) if key not in self._outputs]

    def record(
      number: int, output: records.Output | None, usage: records.Usage
    ) -> None:
      row = {"key": keys[missing[number]], "usage": records.to_row(usage)}
      self._write(row if output is None else {**row, "output": output})

    result: list[T | None] = [None] * len(prompts)
    total = records.Usage()
    for row, key in enumerate(keys):
      total += self._failed.get(key, records.Usage())
      if key in self._outputs:
        result[row], usage = self._outputs[key]
        total += usage
    if missing:
      self._backend.on_output = record
      try:
        outputs, usage = compute([prompts[row] for row in missing])
      finally:
        self._backend.on_output = None
      total += usage
      for row, output in zip(missing, outputs, strict=True):
        result[row] = output
    return result, total


def _output(value: object) -> records.Output:
  """Returns an output after checking that it is a text or log-probs.

  A log-prob that was not finite is stored as null, and is NaN.
  """
  kind = float if isinstance(value, list) else str
  for part in value if kind is float else [value]:
    is_null = kind is float and part is None
    if not is_null and (expected := validation.expected(kind, part)):
      raise ValueError(f"output is {value!r:.60}; {expected}")
  if kind is str:
    return value
  return [math.nan if part is None else part for part in value]


def _keys(prompts: Sequence[str], request: tuple[str, ...]) -> list[str]:
  """Returns hashes of the requests; repetitions of a prompt differ.

  Args:
    prompts: prompts of the request.
    request: name of the backend, and what it is asked for.
  """
  seen: dict[str, int] = collections.defaultdict(int)
  keys = []
  for prompt in prompts:
    keys.append(records.content_id(*request, prompt, str(seen[prompt])))
    seen[prompt] += 1
  return keys
