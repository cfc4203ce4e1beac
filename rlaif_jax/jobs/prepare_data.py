# SPDX-License-Identifier: Apache-2.0
"""Prepares the splits of a task and trains a vocabulary on them.

Later jobs read the files that this job writes, without TensorFlow.
"""

from __future__ import annotations

import pathlib
from typing import Mapping, Sequence

from rlaif_jax.core import jsonl
from rlaif_jax.core import protocols
from rlaif_jax.core import records
from rlaif_jax.data import pipeline
from rlaif_jax.text import prompts
from rlaif_jax.text import tokenizers


def run(
  *,
  output_dir: str,
  task: str = "docstring_summary",
  splits: tuple[str, ...] = (),
  source_dir: str = "",
  vocabulary_split: str = "train",
  vocab_size: int = 2048,
  vocabulary_limit: int = 20_000,
  templates: tuple[str, ...] = (),
) -> records.Row:
  """Writes `output_dir`/TASK/SPLIT.jsonl and `output_dir`/tokenizer.model.

  Args:
    output_dir: data directory, the `data_dir` of other jobs.
    task: name of a task; see docs/guides/data.md.
    splits: splits to prepare; () prepares all splits of the task.
    source_dir: directory with the task's files, for tasks that read files.
    vocabulary_split: split that the vocabulary is trained on.
    vocab_size: pieces of the SentencePiece vocabulary; 0 trains none.
    vocabulary_limit: maximum number of rows that the vocabulary is trained on.
    templates: judge templates whose constant text is added to the vocabulary's
      training texts.
  """
  if task not in pipeline.TASKS:
    raise ValueError(
      f"prepare.task is {task!r}; use one of {sorted(pipeline.TASKS)}"
    )
  rows = {
    split: pipeline.load_rows(
      task, split, cache_dir=output_dir, data_dir=source_dir
    )
    for split in splits or pipeline.TASKS[task].splits
  }
  counts = {split: len(part) for split, part in rows.items()}
  characters = sum(
    len(text)
    for part in rows.values()
    for row in part
    for text in texts_of(row)
  )
  summary: records.Row = {"rows": counts, "characters": characters}
  if vocab_size:
    if vocabulary_split not in rows:
      raise ValueError(
        f"prepare.vocabulary_split is {vocabulary_split!r}; use one of "
        f"{sorted(rows)}"
      )
    texts = []
    for row in rows[vocabulary_split][:vocabulary_limit]:
      texts += texts_of(row)
    for name in templates:
      parts = template_texts(name)
      texts += parts * max(1, len(texts) // 100)
    path = pathlib.Path(output_dir) / "tokenizer.model"
    tokenizers.train_sentencepiece(texts, vocab_size=vocab_size, path=str(path))
    summary["vocabulary"] = str(path)
    summary["tokens"] = token_statistics(
      rows, tokenizers.load_tokenizer(str(path))
    )
  jsonl.write_text(
    pathlib.Path(output_dir) / "statistics.json",
    jsonl.dump_row(summary) + "\n",
  )
  return summary


def texts_of(row: records.Example | records.Preference) -> list[str]:
  """Returns the context of a row, then its response or both responses."""
  if isinstance(row, records.Preference):
    return [row.context, row.first, row.second]
  return [row.context, row.response]


def template_texts(name: str) -> list[str]:
  """Returns the constant text of a judge template."""
  template = prompts.load(name)
  if template.kind == "pairwise":
    parts = template.pairwise_parts()
  else:
    parts = template.pointwise_parts()
  return ["".join(parts)]


def token_statistics(
  rows: Mapping[str, Sequence[records.Example | records.Preference]],
  tokenizer: protocols.Tokenizer,
) -> dict[str, dict[str, float]]:
  """Returns mean and 95th percentile of tokens by split and field."""
  result = {}
  for split, part in rows.items():
    texts = [texts_of(row) for row in part[:2000]]
    for field, column in (("context", 0), ("response", 1)):
      lengths = sorted(len(tokenizer.encode(text[column])) for text in texts)
      result[f"{split}/{field}"] = {
        "rows": len(lengths),
        "mean": round(sum(lengths) / len(lengths), 2),
        "p95": lengths[int(0.95 * (len(lengths) - 1))],
      }
  return result
