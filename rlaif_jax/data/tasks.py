# SPDX-License-Identifier: Apache-2.0
"""The tasks as SeqIO tasks and mixtures.

They read the rows that `data.pipeline` builds. `register` registers them.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from typing import TYPE_CHECKING, Callable, Mapping

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.data import pipeline

if TYPE_CHECKING:
  import seqio
  import tensorflow as tf

# Mixtures of tasks with one record type, with equal rates.
MIXTURES: dict[str, tuple[str, ...]] = {
  "hh_preferences": ("helpful", "harmless"),
  "summary_examples": ("docstring_summary", "debian_synopsis", "tldr"),
}


def register(
  *, cache_dir: str, sources: Mapping[str, str] | None = None
) -> tuple[str, ...]:
  """Registers all tasks and mixtures with SeqIO, replacing earlier ones.

  Rows are built when a dataset is first read. Features are the fields of the
  record, untokenized scalars: strings, and p_first (float32) and confidence
  (int32) of a Preference.

  Args:
    cache_dir: see `pipeline.load_rows`.
    sources: task -> directory, file or tfds:NAME, for tasks that need one and
      are not built yet.

  Returns:
    The names of the tasks, then of the mixtures.

  Raises:
    ValueError: if a source is for an unknown task.
  """
  import seqio

  sources = dict(sources or {})
  unknown = sorted(set(sources) - set(pipeline.TASKS))
  if unknown:
    raise ValueError(
      f"sources names {unknown}; the tasks are {sorted(pipeline.TASKS)}"
    )
  for name in MIXTURES:
    if name in seqio.MixtureRegistry.names():
      seqio.MixtureRegistry.remove(name)
  for name, task in pipeline.TASKS.items():
    if name in seqio.TaskRegistry.names():
      seqio.TaskRegistry.remove(name)
    seqio.TaskRegistry.add(
      name,
      source=seqio.FunctionDataSource(
        dataset_fn(name, cache_dir, sources.get(name, "")),
        splits=task.splits,
      ),
      preprocessors=[],
      output_features=_features(task.record),
    )
  for name, members in MIXTURES.items():
    seqio.MixtureRegistry.add(name, list(members), default_rate=1.0)
  return (*pipeline.TASKS, *MIXTURES)


def register_labels(name: str, *, labels_file: str) -> None:
  """Registers labels of the `label` job as a SeqIO task with split "train".

  Features are those of a Preference task. Rows are streamed from the file.

  Args:
    name: name of the task; replaces a task of this name.
    labels_file: labels.jsonl of the job.

  Raises:
    ValueError: if the file does not exist.
  """
  import seqio

  if not os.path.isfile(labels_file):
    raise ValueError(f"{labels_file} does not exist; run the label job first")
  if name in seqio.TaskRegistry.names():
    seqio.TaskRegistry.remove(name)
  seqio.TaskRegistry.add(
    name,
    source=seqio.FunctionDataSource(
      functools.partial(_stream_labels, labels_file), splits=("train",)
    ),
    preprocessors=[],
    output_features=_features(records.Preference),
  )


def _stream_labels(
  labels_file: str,
  split: str,
  shuffle_files: bool = False,
  seed: int | None = None,
):
  del split, shuffle_files, seed
  import tensorflow as tf

  columns = _columns(records.Preference)

  def rows():
    for label in jsonl.stream_records(records.Preference, labels_file):
      yield {name: getattr(label, name) for name in columns}

  return tf.data.Dataset.from_generator(
    rows,
    output_signature={
      name: tf.TensorSpec((), tf.as_dtype(kind))
      for name, kind in columns.items()
    },
  )


def _columns(record: type) -> dict[str, str]:
  """Returns feature -> TensorFlow dtype, without fields of AI labels."""
  types = {"str": "string", "float": "float32", "int": "int32"}
  return {
    field.name: types[field.type]
    for field in dataclasses.fields(record)
    if field.type in types
  }


def _features(record: type) -> dict[str, seqio.Feature]:
  import seqio
  import tensorflow as tf

  return {
    name: seqio.Feature(
      seqio.PassThroughVocabulary(size=1),
      add_eos=False,
      dtype=tf.as_dtype(kind),
      rank=0,
    )
    for name, kind in _columns(record).items()
  }


def dataset_fn(
  name: str, cache_dir: str, source: str = ""
) -> Callable[..., tf.data.Dataset]:
  """Returns (split) -> the rows of a task, for `seqio.FunctionDataSource`.

  See `pipeline.load_rows` for the arguments.
  """

  def dataset(split: str, shuffle_files: bool = False, seed: int | None = None):
    del shuffle_files, seed  # Rows are in the order of their hashes.
    import tensorflow as tf

    rows = pipeline.load_rows(name, split, cache_dir=cache_dir, data_dir=source)
    columns = _columns(pipeline.TASKS[name].record)
    return tf.data.Dataset.from_tensor_slices(
      {
        column: tf.constant([getattr(row, column) for row in rows], kind)
        for column, kind in columns.items()
      }
    )

  return dataset
