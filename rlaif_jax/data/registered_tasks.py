# SPDX-License-Identifier: Apache-2.0
"""Reads a user's registered SeqIO task or mixture as examples.

A gin file that imports the module which registers it makes it known:

    import my_package.tasks
    PromptData.task = "my_task"
"""

from __future__ import annotations

import itertools
import sys
from typing import Any, Mapping

import numpy as np

from rlaif_jax.core import records


def has(name: str) -> bool:
  """Returns whether SeqIO, if it is imported, has a task or mixture."""
  seqio = sys.modules.get("seqio")
  return seqio is not None and (
    name in seqio.TaskRegistry.names() or name in seqio.MixtureRegistry.names()
  )


def load_examples(
  name: str, split: str, *, limit: int = 0
) -> list[records.Example]:
  """Returns the rows of one epoch, in SeqIO's order without shuffling.

  The context is the feature `inputs`, the response `targets` ("" if there is
  none), as text: `inputs_pretokenized`, or else the decoded ids. A mixture is
  sampled by its rates with seed 0.

  Args:
    name: registered name.
    split: of the task.
    limit: number of rows, from the first on; 0: all.

  Raises:
    ValueError: if there is no such split, no feature `inputs`, or no row.
  """
  import seqio

  provider = seqio.get_mixture_or_task(name)
  if split not in provider.splits:
    raise ValueError(
      f"the SeqIO task {name} has no split {split!r}; it has "
      f"{sorted(provider.splits)}"
    )
  dataset = provider.get_dataset(
    sequence_length=None, split=split, shuffle=False, num_epochs=1, seed=0
  )
  rows = itertools.islice(dataset.as_numpy_iterator(), limit or None)
  features = provider.output_features
  examples = []
  for number, row in enumerate(rows):
    if not {"inputs", "inputs_pretokenized"} & set(row):
      raise ValueError(
        f"the SeqIO task {name} has the features {sorted(row)}; a row needs "
        "inputs, and targets to train on"
      )
    context, response = (
      _text(row, feature, features) for feature in ("inputs", "targets")
    )
    examples.append(
      records.Example(
        id=records.content_id(str(number), context, response),
        context=context,
        response=response,
        source=name,
      )
    )
  if not examples:
    raise ValueError(f"the split {split} of the SeqIO task {name} is empty")
  return examples


def _text(
  row: Mapping[str, Any], feature: str, features: Mapping[str, Any]
) -> str:
  """Returns the text of a feature; "" if the row does not have it."""
  value = row.get(f"{feature}_pretokenized", row.get(feature))
  if value is None:
    return ""
  if isinstance(value, bytes):
    return value.decode("utf-8")
  if isinstance(value, np.ndarray) and value.dtype.kind in "iu":
    vocabulary = features[feature].vocabulary
    ids = [i for i in value.tolist() if i != vocabulary.eos_id]
    return vocabulary.decode(ids)
  return str(value)
