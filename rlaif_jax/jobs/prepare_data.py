# SPDX-License-Identifier: Apache-2.0
"""Builds a task's splits and the vocabulary, once, into a data directory.

Later jobs read the files that this one leaves and never import TensorFlow.
"""

from __future__ import annotations

import pathlib
from typing import Any

from rlaif_jax.core import jsonl
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
) -> dict[str, Any]:
  """Writes `output_dir`/TASK/SPLIT.jsonl and `output_dir`/tokenizer.model.

  Args:
    output_dir: the data directory that other jobs name as data_dir.
    task: a registered task; see docs/guides/data.md.
    splits: the splits to count and to measure; all of the task's when left
      out.
    source_dir: directory with the task's files, for tasks that read some.
    vocabulary_split: the texts that the vocabulary is learned from.
    vocab_size: pieces of the SentencePiece vocabulary; 0 trains none.
    vocabulary_limit: rows read for the vocabulary.
    templates: judge templates whose constant text the vocabulary should
      know (its words are repeated among the texts).
  """
  if task not in pipeline.TASKS:
    raise ValueError(
      f"prepare.task is {task!r}; the tasks are {sorted(pipeline.TASKS)}"
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
  summary: dict[str, Any] = {"rows": counts, "characters": characters}
  if vocab_size:
    if vocabulary_split not in rows:
      raise ValueError(
        f"vocabulary_split is {vocabulary_split!r} and {task} has the splits "
        f"{sorted(rows)}; name one of them"
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
  """The context of a row, then its response or both candidates."""
  if isinstance(row, records.Preference):
    return [row.context, row.first, row.second]
  return [row.context, row.response]


def template_texts(name: str) -> list[str]:
  """The constant lines of a judge template."""
  template = prompts.load(name)
  if template.kind == "pairwise":
    parts = template.pairwise_parts()
  else:
    parts = template.pointwise_parts()
  return ["".join(parts)]


def token_statistics(
  rows: dict[str, list[Any]], tokenizer: Any
) -> dict[str, dict[str, float]]:
  """Mean and 95th percentile of tokens per context and response, by split."""
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
