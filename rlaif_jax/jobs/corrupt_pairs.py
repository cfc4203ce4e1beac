# SPDX-License-Identifier: Apache-2.0
"""Pairs of a human-written response and one that is worse in a known way.

A test of labelers on real texts where no human compared anything: the author's
own line against another document's line, its words shuffled, the document's
first words, or a model's. `audit` reports each kind apart.
"""

from __future__ import annotations

import pathlib
import re
from typing import Any, Callable, Sequence

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.core import rng
from rlaif_jax.data import datasets

KINDS = ("other", "shuffled", "lead", "model")


def run(
  *,
  output_dir: str,
  data_dir: str = "",
  examples_file: str = "",
  task: str = "",
  split: str = "test",
  kinds: tuple[str, ...] = ("other", "shuffled", "lead"),
  responses_file: str = "",
  limit: int = 0,
) -> dict[str, Any]:
  """Writes labels.jsonl: preferences for the human line, a row per kind.

  `source` of a row is its kind; which text stands first is decided by the
  pair's content. A pair whose texts do not differ is left out and counted.

  Args:
    output_dir: where it goes.
    data_dir: of `prepare`, when a task is named.
    examples_file: JSONL of examples, instead of a task.
    task: whose documents and lines are used.
    split: of the task.
    kinds: "other": the line of another document, of another source where
      there is one; "shuffled": its words in another order; "lead": as many
      first words of the document as the line has; "model": responses_file's.
    responses_file: responses.jsonl of the `sample` job, for kind "model".
    limit: first documents only (0: all).
  """
  unknown = sorted(set(kinds) - set(KINDS))
  if unknown or not kinds or ("model" in kinds) != bool(responses_file):
    raise ValueError(
      f"contrast: kinds is {kinds}; they should be of {KINDS}, and 'model' "
      f"goes with responses_file (which is {responses_file!r})"
    )
  examples = datasets.ExampleSource(
    examples_file=examples_file,
    task=task,
    split=split,
    data_dir=data_dir,
    limit=limit,
  ).read()
  responses: dict[str, str] = {}
  if responses_file:
    for row in jsonl.stream_records(records.Response, responses_file):
      responses.setdefault(row.id, row.text)
  makers: dict[str, Callable[[int], str]] = {
    "other": lambda i: _other(examples, i),
    "shuffled": lambda i: _shuffled(examples[i]),
    "lead": lambda i: _lead(examples[i]),
    "model": lambda i: responses.get(examples[i].id, ""),
  }
  rows, left_out = [], dict.fromkeys(kinds, 0)
  for number, example in enumerate(examples):
    for kind in kinds:
      worse = makers[kind](number)
      if not worse or worse == example.response:
        left_out[kind] += 1
        continue
      rows.append(_preference(example, worse, kind))
  path = pathlib.Path(output_dir) / "labels.jsonl"
  return {
    "labels": str(path),
    "pairs": jsonl.write_records(path, rows),
    "left_out": left_out,
  }


def _preference(
  example: records.Example, worse: str, kind: str
) -> records.Preference:
  name = records.content_id(example.id, kind, worse)
  is_first = not records.is_odd(name)
  texts = (example.response, worse)
  first, second = texts if is_first else texts[::-1]
  return records.Preference(
    id=name,
    context=example.context,
    first=first,
    second=second,
    p_first=float(is_first),
    labeler="human",
    source=kind,
  )


def _other(examples: Sequence[records.Example], number: int) -> str:
  """The line of another document, drawn by this one's id."""
  own = examples[number]
  generator = rng.numpy_generator(0, f"contrast/other/{own.id}")
  order = generator.permutation(len(examples))
  for i in order:
    if examples[i].source != own.source or not own.source:
      if examples[i].response != own.response:
        return examples[i].response
  return ""


def _shuffled(example: records.Example) -> str:
  """The line's words in another order, the final stop left in its place."""
  text = example.response.rstrip()
  stop = "." if text.endswith(".") else ""
  words = text.rstrip(".").split()
  generator = rng.numpy_generator(0, f"contrast/shuffled/{example.id}")
  for _ in range(8):  # Some permutations leave a short line as it is.
    mixed = " ".join(words[i] for i in generator.permutation(len(words)))
    if mixed.split() != words:
      return mixed + stop
  return ""


def _lead(example: records.Example) -> str:
  """As many first words of the document as the line has."""
  count = len(example.response.split())
  found = re.findall(r"\S+", example.context)[:count]
  return " ".join(found)
