# SPDX-License-Identifier: Apache-2.0
"""Importing this module registers the tasks with SeqIO as rlaif_NAME.

    import rlaif_jax.data.seqio_tasks
    task = seqio.get_mixture_or_task("rlaif_tldr")

Features are `inputs` (the context) and `targets` (the response, of a pair the
preferred one), tokenized, with their texts as `inputs_pretokenized` and
`targets_pretokenized`. Tasks have a cache placeholder and a metric. Rows are
read from the output directory of the `prepare` job when a dataset is first
read: RLAIF_DATA_DIR names it (default runs/data). RLAIF_VOCABULARY names a
SentencePiece model (default: tokenizer.model there).
"""

from __future__ import annotations

import collections
import functools
import os
from typing import TYPE_CHECKING, Mapping, Sequence

from rlaif_jax.core import records
from rlaif_jax.data import pipeline
from rlaif_jax.data import tasks

if TYPE_CHECKING:
  import seqio
  import tensorflow as tf

PREFIX = "rlaif_"


def unigram_f1(
  targets: Sequence[str], predictions: Sequence[str]
) -> Mapping[str, float]:
  """Returns the mean F1 of the words that prediction and target share, in %."""
  total = 0.0
  for target, prediction in zip(targets, predictions, strict=True):
    words = [collections.Counter(t.split()) for t in (target, prediction)]
    shared = (words[0] & words[1]).total()
    total += 2 * shared / max(words[0].total() + words[1].total(), 1)
  return {"unigram_f1": 100 * total / max(len(targets), 1)}


def _inputs_and_targets(
  dataset: tf.data.Dataset, record: type
) -> tf.data.Dataset:
  """Returns `inputs` and `targets` of the rows of `data.tasks`."""
  import tensorflow as tf

  def convert(row):
    if record is records.Example:
      return {"inputs": row["context"], "targets": row["response"]}
    response = tf.where(row["p_first"] >= 0.5, row["first"], row["second"])
    return {"inputs": row["context"], "targets": response}

  return dataset.map(convert)


def _features() -> dict[str, seqio.Feature]:
  import seqio

  data_dir = os.environ.get("RLAIF_DATA_DIR", "runs/data")
  default = os.path.join(data_dir, "tokenizer.model")
  # The file is opened when the vocabulary is first used.
  vocabulary = seqio.SentencePieceVocabulary(
    os.environ.get("RLAIF_VOCABULARY", default)
  )
  return {
    name: seqio.Feature(vocabulary, add_eos=True)
    for name in ("inputs", "targets")
  }


def _register() -> None:
  import seqio

  data_dir = os.environ.get("RLAIF_DATA_DIR", "runs/data")
  for name, task in pipeline.TASKS.items():
    seqio.TaskRegistry.add(
      PREFIX + name,
      source=seqio.FunctionDataSource(
        tasks.dataset_fn(name, data_dir), splits=task.splits
      ),
      preprocessors=[
        functools.partial(_inputs_and_targets, record=task.record),
        seqio.preprocessors.tokenize,
        seqio.CacheDatasetPlaceholder(),
        seqio.preprocessors.append_eos_after_trim,
      ],
      output_features=_features(),
      metric_fns=[unigram_f1],
    )
  for name, members in tasks.MIXTURES.items():
    seqio.MixtureRegistry.add(
      PREFIX + name, [PREFIX + member for member in members], default_rate=1.0
    )


_register()
