# SPDX-License-Identifier: Apache-2.0
"""Tasks to rows: each task is built once into JSONL files, then read.

The files hold records; the seqio tasks of `data.tasks` are views of the same
files. Reading them needs neither TensorFlow nor seqio.
"""

from __future__ import annotations

import dataclasses
import difflib
import pathlib
from typing import Any, Callable, Iterable

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.data import debian
from rlaif_jax.data import docstrings
from rlaif_jax.data import preprocessors
from rlaif_jax.data import readers

Splits = dict[str, list[Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
  """record: what a row is. build: (source, quarantine) -> splits, manifest."""

  record: type
  build: Callable[[str, jsonl.Quarantine], tuple[Splits, dict[str, Any]]]


def _build_docstrings(source: str, quarantine: jsonl.Quarantine):
  del source, quarantine  # Sources that do not parse are in the manifest.
  corpus = docstrings.build()
  return corpus.splits, corpus.manifest


def _build_debian(source: str, quarantine: jsonl.Quarantine):
  del quarantine  # What is left out is counted by reason in the manifest.
  return debian.build(source)


def _raw_rows(
  source: str, split: str, stems: tuple[str, ...], quarantine, what: str
) -> Iterable[tuple[str, dict[str, Any]]]:
  if source.startswith("tfds:"):
    return readers.read_tfds(source.removeprefix("tfds:"), split)
  files = readers.find_files(source, stems, what=f"{what} {split}")
  return readers.read_files(files, quarantine)


def _parsed(rows, parse, quarantine: jsonl.Quarantine) -> list[Any]:
  """Records of raw rows; repeated ids and bad rows are set aside."""
  result, seen = [], set()
  for where, row in rows:
    try:
      record = parse(row)
      if record.id in seen:
        raise ValueError("a row with the same content came before")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
      quarantine.add(where=where, reason=str(error), row=row)
      continue
    seen.add(record.id)
    result.append(record)
  return result


def _published(what: str, parse, stems: dict[str, tuple[str, ...]], after=None):
  """A builder over published files: split -> beginnings of file names."""

  def build(source: str, quarantine: jsonl.Quarantine):
    splits = {}
    for split, names in stems.items():
      rows = _raw_rows(source, split, names, quarantine, what)
      splits[split] = _parsed(rows, parse, quarantine)
    if after is not None:
      splits = after(splits)
    counts = {name: len(rows) for name, rows in splits.items()}
    return splits, {"source": source, "counts": counts}

  return build


def labelling_study(splits: Splits, *, share: float, confident: bool) -> Splits:
  """Adds the split `study`: a random share of train, high confidence only
  where the raters gave one (paper section 3.1)."""
  study = [
    row
    for row in splits["train"]
    if preprocessors.in_share(row.id, share, "study")
    and (not confident or preprocessors.is_confident(row))
  ]
  return {**splits, "study": study}


def _comparisons_after(splits: Splits) -> Splits:
  return labelling_study(splits, share=0.15, confident=True)


def _hh_after(splits: Splits) -> Splits:
  """HH has no validation: two thirds of its test split become one."""
  test = splits.pop("test")
  parts: Splits = {"validation": [], "test": []}
  for row in test:
    kept = preprocessors.in_share(row.id, 2 / 3, "validation")
    parts["validation" if kept else "test"].append(row)
  result = {**splits, **parts}
  return labelling_study(result, share=0.10, confident=False)


def _hh(name: str) -> Task:
  return Task(
    record=records.Preference,
    build=_published(
      f"{name} (Anthropic HH)",
      preprocessors.dialogue,
      {
        "train": (f"{name}-base/train", "train"),
        "test": (f"{name}-base/test", "test"),
      },
      _hh_after,
    ),
  )


TASKS: dict[str, Task] = {
  "docstring_summary": Task(record=records.Example, build=_build_docstrings),
  "debian_synopsis": Task(record=records.Example, build=_build_debian),
  "tldr": Task(
    record=records.Example,
    build=_published(
      "tldr (Reddit TL;DR, filtered)",
      preprocessors.tldr,
      {
        "train": ("train",),
        "validation": ("valid",),
        "test": ("test",),
      },
    ),
  ),
  "tldr_comparisons": Task(
    record=records.Preference,
    build=_published(
      "tldr_comparisons (OpenAI)",
      preprocessors.comparison,
      {
        "train": ("train", "batch", "comparisons/batch"),
        "validation": ("valid", "comparisons/valid"),
      },
      _comparisons_after,
    ),
  ),
  "helpful": _hh("helpful"),
  "harmless": _hh("harmless"),
}


def load_rows(
  task: str, split: str, *, cache_dir: str, data_dir: str = "", limit: int = 0
) -> list[Any]:
  """Rows of a task's split; builds all splits on the first call.

  Args:
    task: a key of `TASKS`.
    split: a split of it; see docs/data.md.
    cache_dir: where the built files are kept.
    data_dir: the task's source: a directory, a file, or tfds:NAME.
    limit: the first rows only (0: all). Rows stand in the order of their
      ids, which are hashes, so this is a fair sample.

  Raises:
    ValueError: an unknown task or split, or an empty one.
  """
  if task not in TASKS:
    close = difflib.get_close_matches(task, TASKS, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ValueError(
      f"there is no task {task!r}{hint}; the tasks are {sorted(TASKS)}"
    )
  directory = pathlib.Path(cache_dir) / task
  if not (directory / "manifest.json").exists():
    build_task(task, directory, data_dir)
  path = directory / f"{split}.jsonl"
  if not path.exists():
    known = sorted(p.stem for p in directory.glob("*.jsonl"))
    raise ValueError(f"{task} has no split {split!r}; it has {known}")
  rows = jsonl.read_records(TASKS[task].record, path)
  if not rows:
    raise ValueError(
      f"the split {split!r} of {task} is empty; see "
      f"{directory / 'manifest.json'} for what was read and left out"
    )
  return rows[:limit] if limit else rows


def build_task(task: str, directory: pathlib.Path, source: str) -> None:
  """Builds all splits of a task; the manifest comes last and makes it whole.

  Two processes may do so at once: both write the same bytes, each file
  atomically.
  """
  quarantine = jsonl.Quarantine()
  splits, manifest = TASKS[task].build(source, quarantine)
  for name, rows in splits.items():
    rows = sorted(rows, key=lambda row: row.id)
    jsonl.write_records(directory / f"{name}.jsonl", rows)
  quarantine.write(directory / "quarantine.jsonl.txt")
  manifest = {**manifest, "quarantined": quarantine.counts()}
  jsonl.write_text(directory / "manifest.json", jsonl.dump_row(manifest) + "\n")


def load_examples(
  task: str, split: str, *, cache_dir: str, data_dir: str = "", limit: int = 0
) -> list[records.Example]:
  """`load_rows` for a task of examples.

  Raises:
    ValueError: the task holds labelled pairs.
  """
  if task in TASKS and TASKS[task].record is not records.Example:
    raise ValueError(
      f"{task} holds labelled pairs, not examples; name it where labels are "
      "asked for"
    )
  return load_rows(
    task, split, cache_dir=cache_dir, data_dir=data_dir, limit=limit
  )


def load_preferences(
  task: str, split: str, *, cache_dir: str, data_dir: str = "", limit: int = 0
) -> list[records.Preference]:
  """`load_rows` for a task of labelled pairs.

  Raises:
    ValueError: the task holds examples.
  """
  if task in TASKS and TASKS[task].record is not records.Preference:
    raise ValueError(f"{task} holds examples, not labelled pairs")
  return load_rows(
    task, split, cache_dir=cache_dir, data_dir=data_dir, limit=limit
  )
