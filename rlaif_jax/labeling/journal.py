# SPDX-License-Identifier: Apache-2.0
"""Answers that are paid for but not yet part of a stored chunk of labels.

Between a labeler and the judge: each answer is written down as it arrives, so
that a kill in the middle of a chunk pays for no answer twice. When the chunk
is in the label store, its answers may go.
"""

from __future__ import annotations

import collections
import json
import os
import pathlib
from typing import Any, Callable, Sequence

from absl import logging

from rlaif_jax.core import jsonl
from rlaif_jax.core import protocols
from rlaif_jax.core import records


class JournaledBackend:
  """A `protocols.Backend` that asks another one for what it has not heard.

  A failed answer, which the other one does not report, is not kept. Lines
  reach the operating system before the next answer is taken: they outlive
  this process, though not a loss of power.

  Args:
    backend: who answers.
    path: the journal's file; one process at a time.
  """

  def __init__(self, backend: protocols.PaidBackend, path: str | os.PathLike):
    self.name = backend.name
    self._backend = backend
    self._path = pathlib.Path(path)
    self._path.parent.mkdir(parents=True, exist_ok=True)
    self._answers: dict[str, tuple[Any, records.Usage]] = {}
    self._read()
    self._file = open(self._path, "ab")

  def _read(self) -> None:
    """Takes the lines of an earlier process; a torn last one is cut off."""
    if not self._path.exists():
      return
    if jsonl.cut_torn_line(self._path):
      logging.warning(
        "%s: cut off an answer that was not written to its end.", self._path
      )
    for line in self._path.read_bytes().splitlines():
      self._take(json.loads(line))

  def _take(self, row: dict[str, Any]) -> None:
    if "accounted" in row:
      free = records.Usage()
      self._answers = {key: (a, free) for key, (a, _) in self._answers.items()}
    else:
      usage = records.from_row(records.Usage, row["usage"])
      self._answers[row["key"]] = (row["answer"], usage)

  def _write(self, row: dict[str, Any]) -> None:
    self._file.write((jsonl.dump_row(row) + "\n").encode("utf-8"))
    self._file.flush()
    self._take(row)

  def settle(self, *, complete: bool) -> None:
    """The chunk and its cost are stored.

    Args:
      complete: all its pairs have labels, so that the answers may go; else
        they stay for the next start, their cost not counted again.
    """
    if complete:
      self._answers = {}
      self._file.truncate(0)
    elif self._answers:
      self._write({"accounted": True})

  def prefix_options(self, options: Sequence[str]) -> tuple[int, ...]:
    """See `protocols.Backend`."""
    return self._backend.prefix_options(options)

  def score_options(
    self, prompts: Sequence[str], options: Sequence[str]
  ) -> tuple[list[list[float]], records.Usage]:
    """See `protocols.Backend`."""
    return self._answer(
      prompts,
      ("score", *options),
      lambda new: self._backend.score_options(new, options),
    )

  def complete(
    self, prompts: Sequence[str], **settings: Any
  ) -> tuple[list[str], records.Usage]:
    """See `protocols.Backend`."""
    return self._answer(
      prompts,
      ("complete", json.dumps(settings, sort_keys=True)),
      lambda new: self._backend.complete(new, **settings),
    )

  def _answer(
    self,
    prompts: Sequence[str],
    question: tuple[str, ...],
    ask: Callable[[list[str]], tuple[list[Any], records.Usage]],
  ) -> tuple[list[Any], records.Usage]:
    """Answers in the order of the prompts, known ones from the journal."""
    keys = _keys(prompts, question)
    new = [row for row, key in enumerate(keys) if key not in self._answers]

    def note(number: int, answer: Any, usage: records.Usage) -> None:
      row = {"key": keys[new[number]], "answer": answer}
      self._write({**row, "usage": records.to_row(usage)})

    result: list[Any] = [None] * len(prompts)
    spent = records.Usage()
    for row, key in enumerate(keys):
      if key in self._answers:
        result[row], usage = self._answers[key]
        spent += usage
    if new:
      self._backend.on_answer = note
      try:
        answers, usage = ask([prompts[row] for row in new])
      finally:
        self._backend.on_answer = None
      spent += usage
      for row, answer in zip(new, answers, strict=True):
        result[row] = answer
    return result, spent


def _keys(prompts: Sequence[str], question: tuple[str, ...]) -> list[str]:
  """Names of the questions; a prompt asked n times has n names."""
  seen: dict[str, int] = collections.defaultdict(int)
  keys = []
  for prompt in prompts:
    keys.append(records.content_id(*question, prompt, str(seen[prompt])))
    seen[prompt] += 1
  return keys
