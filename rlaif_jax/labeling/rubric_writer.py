# SPDX-License-Identifier: Apache-2.0
"""Lets a language model write the rubric of each context."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import re
from typing import Callable, Sequence

from rlaif_jax.core import jsonl
from rlaif_jax.core import protocols
from rlaif_jax.core import records
from rlaif_jax.core import validation
from rlaif_jax.engine import metrics
from rlaif_jax.engine import preemption
from rlaif_jax.labeling import judgments
from rlaif_jax.labeling import option_probs
from rlaif_jax.labeling import rubrics
from rlaif_jax.labeling import store

# A line of a list with an optional mark: "1. [2] Does it name the tool?"
_LINE = re.compile(
  r"(?:[-*]|\(?\d+[.)])\s*(?:\[\s*(-?\d+|hard)\s*\])?\s*(\S.*\?)"
)
_BEFORE = "A person sends the following text.\n\n"
_AFTER = """

Write the questions by which a response to this text should be checked, one per
line. Each can be answered by yes or no from the response alone. Begin a line
with its number and its importance from 1 to 3 in brackets. The importance is
negative if "yes" speaks against the response, and "hard" if the response is
useless without it.
1. [2] Does it name what the text is about?
2. [-1] Does it repeat itself?
Now write the questions for the text above.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RubricWriterConfig(validation.Validated):
  """Settings of a model that writes rubrics.

  Fields:
    before: text before a context.
    after: text after a context, which asks for the criteria.
    max_tokens: limit of the generated list.
    max_context_tokens: limit of a context; longer ones lose their end.
  """

  before: str = _BEFORE
  after: str = _AFTER
  max_tokens: validation.PositiveInt = 400
  max_context_tokens: validation.PositiveInt = 3000


def write(
  contexts: Sequence[str],
  backend: protocols.Backend,
  config: RubricWriterConfig,
  *,
  tokenizer: protocols.Tokenizer,
  quarantine: jsonl.Quarantine | None = None,
) -> tuple[list[rubrics.Rubric], records.Usage]:
  """Returns the rubric of each context, from one greedy completion.

  Args:
    contexts: contexts.
    backend: language model.
    config: settings.
    tokenizer: tokenizer of the backend.
    quarantine: receives contexts for which the model writes no criterion. None
      raises for the first such context.

  Returns:
    Rubrics in the order of the contexts without the quarantined ones, and the
    tokens used.

  Raises:
    ValueError: a context has no criterion and `quarantine` is None.
  """
  outputs, usage = judgments.complete(
    backend,
    [
      config.before + _truncate(context, config, tokenizer) + config.after
      for context in contexts
    ],
    max_tokens=config.max_tokens,
    temperature=0.0,
    top_k=0,
    seed=0,
    stop="",
  )
  result = []
  for context, output in zip(contexts, outputs, strict=True):
    criteria = parse(output)
    if any(criterion.weight for criterion in criteria):
      result.append(rubrics.Rubric(context=context, criteria=criteria))
      continue
    name = records.content_id(context)
    option_probs.reject(
      quarantine,
      row=records.Example(id=name, context=context, response=""),
      reason=f"the labeler wrote no criterion: {output.strip()!r:.60}",
    )
  return result, usage


def write_in_chunks(
  path: pathlib.Path,
  contexts: Sequence[str],
  backend: protocols.Backend,
  config: RubricWriterConfig,
  *,
  tokenizer: protocols.Tokenizer,
  quarantine: jsonl.Quarantine,
  chunk_size: int,
  commit: Callable[[bool], None],
) -> tuple[list[rubrics.Rubric], records.Usage]:
  """Calls `write` by chunks, and skips those that an earlier run has written.

  Args:
    path: file of the chunks, each of which is one line.
    contexts: contexts, in the same order in each run.
    backend: language model.
    config: settings; chunks of other settings or models are not used.
    tokenizer: tokenizer of the backend.
    quarantine: receives contexts for which the model writes no criterion.
    chunk_size: number of contexts of a chunk.
    commit: called after a chunk is stored; its argument tells whether all
      contexts of the chunk have a rubric.

  Raises:
    preemption.Preempted: the process was asked to stop.
  """
  name = records.content_id(repr(config), backend.name)
  lines = []
  if path.exists():
    jsonl.cut_torn_line(path)
    found = jsonl.parse_rows(path, jsonl.row_of)
    lines = [row for row in found if row["writer"] == name]
  path.parent.mkdir(parents=True, exist_ok=True)
  result, total = [], records.Usage()
  progress = metrics.Progress("write", len(contexts), unit="rubrics")
  with open(path, "a", encoding="utf-8") as f:
    for number, chunk in enumerate(store.batched(contexts, chunk_size)):
      if number == len(lines):
        failed = jsonl.Quarantine()
        written, usage = write(
          chunk, backend, config, tokenizer=tokenizer, quarantine=failed
        )
        row = {
          "rubrics": [records.to_row(rubric) for rubric in written],
          "failed": failed.rows,
          "usage": records.to_row(usage),
          "writer": name,
        }
        line = jsonl.dump_row(row)
        f.write(line + "\n")
        f.flush()
        os.fsync(f.fileno())
        lines.append(json.loads(line))
        commit(len(written) == len(chunk))
      row = lines[number]
      result += [records.from_row(rubrics.Rubric, r) for r in row["rubrics"]]
      quarantine.rows += row["failed"]
      total += records.from_row(records.Usage, row["usage"])
      progress.update(min((number + 1) * chunk_size, len(contexts)))
      if preemption.requested():
        raise preemption.Preempted(f"write: stopped after chunk {number + 1}")
  return result, total


def parse(output: str) -> tuple[rubrics.Criterion, ...]:
  """Returns the criteria of a generated list.

  A criterion is a line of a list that ends in a question mark. Its weight is 1
  without a mark. A repeated criterion counts once, other lines are left out.
  """
  result: dict[str, rubrics.Criterion] = {}
  for line in output.split("\n"):
    found = _LINE.fullmatch(line.strip())
    if not found:
      continue
    mark, text = found.groups()
    is_hard = mark == "hard"
    criterion = rubrics.Criterion(
      text=text,
      weight=1.0 if is_hard or mark is None else float(mark),
      hard=is_hard,
    )
    result.setdefault(text, criterion)
  return tuple(result.values())


def _truncate(
  context: str, config: RubricWriterConfig, tokenizer: protocols.Tokenizer
) -> str:
  ids = tokenizer.encode_plain(context)
  if len(ids) <= config.max_context_tokens:
    return context
  return tokenizer.decode(ids[: config.max_context_tokens])
