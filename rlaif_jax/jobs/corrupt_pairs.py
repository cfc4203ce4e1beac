# SPDX-License-Identifier: Apache-2.0
"""Pairs human-written responses with responses that are worse in a known way.

Tests labelers on real texts without human comparisons. The worse response is
that of another document, the human one with shuffled words, the first words of
the document, or a model's. `eval_judge` reports each kind separately.
"""

from __future__ import annotations

import pathlib
import re
from typing import Callable, Sequence

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
) -> records.Row:
  """Writes labels.jsonl: preferences for the human response, a row per kind.

  `source` of a row is its kind. A hash of the pair decides which response is
  first. Pairs of equal responses are skipped and counted.

  Args:
    output_dir: output directory.
    data_dir: data directory of the `prepare` job, with `task`.
    examples_file: JSONL of examples, instead of `task`.
    task: task whose examples are used.
    split: split of the task.
    kinds: "other" is the response of another document, from another source if
      there is one; "shuffled" has the words in random order; "lead" is the
      beginning of the document, with as many words as the response; "model" is
      read from `responses_file`.
    responses_file: responses.jsonl of the `sample` job, for kind "model".
    limit: number of examples; 0 takes all.
  """
  unknown = sorted(set(kinds) - set(KINDS))
  if unknown or not kinds or ("model" in kinds) != bool(responses_file):
    raise ValueError(
      f"corrupt_pairs: kinds is {kinds} and responses_file is "
      f"{responses_file!r}; use some of {KINDS}, with responses_file for "
      "'model' only"
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
    for row in jsonl.stream_records(
      records.Response, responses_file, jsonl.of_run()
    ):
      responses.setdefault(row.id, row.text)
  corrupt: dict[str, Callable[[int], str]] = {
    "other": lambda i: _other(examples, i),
    "shuffled": lambda i: _shuffled(examples[i]),
    "lead": lambda i: _lead(examples[i]),
    "model": lambda i: responses.get(examples[i].id, ""),
  }
  rows, skipped = [], dict.fromkeys(kinds, 0)
  for number, example in enumerate(examples):
    for kind in kinds:
      worse = corrupt[kind](number)
      if not worse or worse == example.response:
        skipped[kind] += 1
        continue
      rows.append(_preference(example, worse, kind))
  path = pathlib.Path(output_dir) / "labels.jsonl"
  return {
    "labels": str(path),
    "pairs": jsonl.write_records(path, rows),
    "left_out": skipped,
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
  """Returns the response of another document, drawn by the example's id."""
  example = examples[number]
  generator = rng.numpy_generator(0, f"contrast/other/{example.id}")
  for i in generator.permutation(len(examples)):
    if examples[i].source != example.source or not example.source:
      if examples[i].response != example.response:
        return examples[i].response
  return ""


def _shuffled(example: records.Example) -> str:
  """Returns the words in random order, with a final period kept in place."""
  text = example.response.rstrip()
  stop = "." if text.endswith(".") else ""
  words = text.rstrip(".").split()
  generator = rng.numpy_generator(0, f"contrast/shuffled/{example.id}")
  for _ in range(8):  # A permutation of few words may be the identity.
    mixed = " ".join(words[i] for i in generator.permutation(len(words)))
    if mixed.split() != words:
      return mixed + stop
  return ""


def _lead(example: records.Example) -> str:
  """Returns as many first words of the document as the response has."""
  count = len(example.response.split())
  return " ".join(re.findall(r"\S+", example.context)[:count])
