# SPDX-License-Identifier: Apache-2.0
"""Builds each task once into JSONL files of records, and reads them.

Reading needs neither TensorFlow nor SeqIO. The SeqIO tasks of `data.tasks` read
the same files.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import pathlib
from typing import Callable, Iterable, Sequence

from absl import logging

from rlaif_jax.core import jsonl
from rlaif_jax.core import parsing
from rlaif_jax.core import record_files
from rlaif_jax.core import records
from rlaif_jax.data import debian
from rlaif_jax.data import docstrings
from rlaif_jax.data import preprocessors
from rlaif_jax.data import readers
from rlaif_jax.data import splits as shares

Row = records.Example | records.Preference
Splits = dict[str, list[Row]]
Build = Callable[[str, jsonl.Quarantine], tuple[Splits, dict[str, object]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
  """A task.

  Attributes:
    record: class of a row.
    splits: names of the splits.
    build: (source, quarantine) -> splits, manifest.
    needs_source: whether the user names its files.
  """

  record: type
  splits: tuple[str, ...]
  build: Build
  needs_source: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Published:
  """The files of a published data set.

  Attributes:
    what: name in errors.
    parse: row -> record; raises ValueError for an invalid row.
    stems: split -> prefixes of its files, preferred first. A text of an earlier
      split is rejected in a later one, so held-out splits come first.
    mixed: prefixes of files with several splits, which are preferred.
    split_in_row: returns the split that a row names, or None; raises
      ValueError for an invalid one.
    finish: published splits -> splits of the task.
  """

  what: str
  parse: Callable[[object], Row]
  stems: dict[str, tuple[str, ...]]
  mixed: tuple[str, ...] = ()
  split_in_row: Callable[[object], str | None] = lambda row: None
  finish: Callable[[Splits], Splits] = lambda splits: splits


def _build_docstrings(source: str, quarantine: jsonl.Quarantine):
  del source  # Reads the installed packages.
  corpus = docstrings.build(quarantine)
  return corpus.splits, corpus.manifest


def _build_debian(source: str, quarantine: jsonl.Quarantine):
  del quarantine  # The manifest counts omitted rows by reason.
  return debian.build(source)


def _raw_rows(
  published: Published, source: str, quarantine: jsonl.Quarantine
) -> Iterable[tuple[str, str, object]]:
  """Yields (split of the file or "", location, row) of all files."""
  if source.startswith("tfds:"):
    for split in published.stems:
      for where, row in readers.read_tfds(source.removeprefix("tfds:"), split):
        yield split, where, row
    return
  stems = [stem for names in published.stems.values() for stem in names]
  root = readers.require_directory(
    source, [*published.mixed, *stems], what=published.what
  )
  files = [("", path) for path in readers.find_files(root, published.mixed)]
  if not files:
    for split, names in published.stems.items():
      what = f"{published.what}, split {split}"
      found = readers.require_files(root, names, what=what)
      files += [(split, path) for path in found]
  for split, path in files:
    for where, row in readers.read_file(path, quarantine):
      yield split, where, row


def read_published(
  published: Published, source: str, quarantine: jsonl.Quarantine
) -> tuple[Splits, dict[str, object]]:
  """Returns rows by split and a manifest; quarantines bad and repeated rows."""
  parsed: dict[str, list[tuple[str, Row]]] = {
    split: [] for split in published.stems
  }
  for file_split, where, row in _raw_rows(published, source, quarantine):
    try:
      split = published.split_in_row(row) or file_split
      if split not in parsed:
        raise ValueError(f"the row names no split; it is one of {list(parsed)}")
      parsed[split].append((where, published.parse(row)))
    except parsing.ERRORS as error:
      quarantine.add(where=where, reason=parsing.reason(error), row=row)
  splits = _without_repeats(parsed, quarantine)
  splits = published.finish(splits)
  counts = {name: len(rows) for name, rows in splits.items()}
  return splits, {"counts": counts}


def _without_repeats(parsed, quarantine: jsonl.Quarantine) -> Splits:
  splits: Splits = {}
  seen: dict[str, str] = {}
  for split, rows in parsed.items():
    splits[split] = []
    for where, record in rows:
      if record.id in seen:
        reason = f"the same content as a row of {seen[record.id]}"
        row = records.to_row(record)
        quarantine.add(where=where, reason=reason, row=row)
        continue
      seen[record.id] = split
      splits[split].append(record)
  return splits


def labelling_study(splits: Splits, *, share: float, confident: bool) -> Splits:
  """Adds the split `study`, a random share of train (paper section 3.1).

  `confident` keeps only rows with a high confidence of the rater.
  """
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
  """Makes two thirds of HH's test split its validation split.

  The split is by a hash of the context, so no dialogue is in both.
  """
  test = splits["test"]
  parts: Splits = {"validation": [], "test": []}
  for row in test:
    group = records.content_id(row.context)
    kept = preprocessors.in_share(group, 2 / 3, "validation")
    parts["validation" if kept else "test"].append(row)
  result = {**splits, **parts}
  return labelling_study(result, share=0.10, confident=False)


def _published(record: type, splits: Iterable[str], published: Published):
  return Task(
    record=record,
    splits=tuple(splits),
    build=lambda source, bad: read_published(published, source, bad),
  )


def _hh(name: str) -> Task:
  published = Published(
    what=f"{name} (Anthropic HH)",
    parse=preprocessors.dialogue,
    stems={
      "test": (f"{name}-base/test", "test"),
      "train": (f"{name}-base/train", "train"),
    },
    finish=_hh_after,
  )
  splits = ("train", "study", "validation", "test")
  return _published(records.Preference, splits, published)


_TLDR = Published(
  what="tldr (Reddit TL;DR, filtered)",
  parse=preprocessors.tldr,
  stems={
    "test": ("test", "data/test"),
    "validation": ("valid", "data/valid"),
    "train": ("train", "data/train"),
  },
)
_COMPARISONS = Published(
  what="tldr_comparisons (OpenAI)",
  parse=preprocessors.comparison,
  stems={
    "validation": ("comparisons/valid", "valid"),
    "train": ("comparisons/train", "train"),
  },
  mixed=("comparisons/batch", "batch"),
  split_in_row=preprocessors.comparison_split,
  finish=_comparisons_after,
)

TASKS: dict[str, Task] = {
  "docstring_summary": Task(
    record=records.Example,
    splits=shares.NAMES,
    build=_build_docstrings,
    needs_source=False,
  ),
  "debian_synopsis": Task(
    record=records.Example, splits=shares.NAMES, build=_build_debian
  ),
  "tldr": _published(records.Example, ("train", "validation", "test"), _TLDR),
  "tldr_comparisons": _published(
    records.Preference, ("train", "study", "validation"), _COMPARISONS
  ),
  "helpful": _hh("helpful"),
  "harmless": _hh("harmless"),
}


def load_rows(
  task: str,
  split: str,
  *,
  cache_dir: str,
  data_dir: str = "",
  limit: int = 0,
  on_demand: bool = False,
) -> Sequence[Row]:
  """Returns the rows of a split; builds all splits on the first call.

  Args:
    task: key of `TASKS`.
    split: split of the task; see docs/guides/data.md.
    cache_dir: directory of the built files.
    data_dir: source of the task: a directory, a file, or tfds:NAME.
    limit: number of rows, from the first on; 0: all. Rows are sorted by hash,
      so the first ones are a random sample.
    on_demand: reads a row when it is indexed.

  Raises:
    ValueError: if the task or split is unknown, or the split is empty.
  """
  if task not in TASKS:
    close = difflib.get_close_matches(task, TASKS, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ValueError(
      f"there is no task {task!r}{hint}; the tasks are {sorted(TASKS)}, and "
      "SeqIO's own ones once a gin file imports the module that registers them"
    )
  known = TASKS[task].splits
  if split not in known:
    raise ValueError(f"{task} has no split {split!r}; it has {known}")
  if data_dir and not TASKS[task].needs_source:
    raise ValueError(
      f"{task} reads the installed packages, but a source {data_dir!r} is "
      "given; leave it out, or name the task that it is for"
    )
  directory = pathlib.Path(cache_dir) / task
  if (directory / "manifest.json").exists():
    _check_source(task, directory, data_dir)
  else:
    build_task(task, directory, data_dir)
  rows = record_files.open_records(
    TASKS[task].record, directory / f"{split}.jsonl", on_demand=on_demand
  )
  if not rows:
    raise ValueError(
      f"the split {split!r} of {task} is empty; see "
      f"{directory / 'manifest.json'} for what was read and left out"
    )
  return rows[:limit] if limit else rows


def _absolute(source: str) -> str:
  """Returns a source with an absolute path."""
  is_path = source and not source.startswith("tfds:")
  return os.path.abspath(source) if is_path else source


def _check_source(task: str, directory: pathlib.Path, source: str) -> None:
  manifest = parsing.read_json(directory / "manifest.json")
  built = manifest.get("source", "")
  if source and _absolute(source) != built:
    raise ValueError(
      f"{task} in {directory} was built from {built!r} and you name "
      f"{source!r}; delete that directory or choose another for the new data"
    )


def build_task(task: str, directory: pathlib.Path, source: str) -> None:
  """Builds all splits of a task, and writes the manifest last.

  Concurrent processes write identical files, each atomically. Rejected rows
  are in `quarantine.jsonl.txt` with file, line and reason.

  Raises:
    ValueError: if the directory holds files of somebody else.
  """
  files = {name: directory / f"{name}.jsonl" for name in TASKS[task].splits}
  begun, manifest_file = directory / ".begun", directory / "manifest.json"
  taken = [path for path in files.values() if path.exists()]
  if taken and not begun.exists() and not manifest_file.exists():
    raise ValueError(
      f"{taken[0]} exists, and {task} would be built there; move it away, or "
      "use another data_dir (output_dir of the prepare job)"
    )
  jsonl.write_text(begun, "")
  quarantine = jsonl.Quarantine()
  splits, manifest = TASKS[task].build(source, quarantine)
  for name, path in files.items():
    rows = sorted(splits[name], key=lambda row: row.id)
    jsonl.write_records(path, rows)
  quarantine.write(directory / "quarantine.jsonl.txt")
  if quarantine.rows:
    logging.warning(
      "%s: %d rows set aside, see %s",
      task,
      len(quarantine.rows),
      directory / "quarantine.jsonl.txt",
    )
  manifest = {
    **manifest,
    "source": _absolute(source),
    "quarantined": quarantine.counts(),
  }
  jsonl.write_text(manifest_file, jsonl.dump_row(manifest) + "\n")
  begun.unlink(missing_ok=True)


def load_examples(
  task: str, split: str, **where: object
) -> Sequence[records.Example]:
  """Returns `load_rows` as examples; of pairs, the preferred responses."""
  rows = load_rows(task, split, **where)
  if TASKS[task].record is records.Example:
    return rows
  if isinstance(rows, record_files.RecordsOnDemand):
    return _Preferred(rows)
  return [records.example_of(row) for row in rows]


class _Preferred(Sequence[records.Example]):
  """Labelled pairs as examples, each read when it is indexed."""

  def __init__(self, pairs: Sequence[records.Preference]):
    self._pairs = pairs

  def __len__(self) -> int:
    return len(self._pairs)

  def __getitem__(self, index):
    found = self._pairs[index]
    if isinstance(index, slice):
      return _Preferred(found)
    return records.example_of(found)


def load_preferences(
  task: str, split: str, *, cache_dir: str, data_dir: str = "", limit: int = 0
) -> list[records.Preference]:
  """Returns `load_rows` of a task of labelled pairs.

  Raises:
    ValueError: if the task has examples.
  """
  if task in TASKS and TASKS[task].record is not records.Preference:
    raise ValueError(f"{task} holds examples, not labelled pairs")
  return load_rows(
    task, split, cache_dir=cache_dir, data_dir=data_dir, limit=limit
  )
