# SPDX-License-Identifier: Apache-2.0
"""Files of labelled pairs, and their encoding."""

from __future__ import annotations

import dataclasses
from typing import Callable, Sequence

import jax
import numpy as np

from rlaif_jax.core import batches
from rlaif_jax.core import jsonl
from rlaif_jax.core import protocols
from rlaif_jax.core import record_files
from rlaif_jax.core import records
from rlaif_jax.data import converters

Encode = Callable[
  [Sequence[records.Preference]], tuple[batches.PairBatch, dict[str, int]]
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelsConfig:
  """Labelled pairs to train on, and held-out ones to measure accuracy on.

  Attributes:
    labels_file: labels.jsonl of the `label` job, soft or hard.
    test_labels_file: held-out human labels.
    hard_labels: rounds the soft training labels to 0 or 1; 0.5 stays.
  """

  labels_file: str
  test_labels_file: str = ""
  hard_labels: bool = False

  def read(self, on_demand: bool = False) -> Sequence[records.Preference]:
    """Returns the training labels; see `read_labels`."""
    return read_labels(self.labels_file, on_demand=on_demand)

  def read_test(self) -> Sequence[records.Preference]:
    """Returns the held-out labels.

    Raises:
      ValueError: if there is no file of them, or it is bad.
    """
    if not self.test_labels_file:
      raise ValueError(
        "LabelsConfig.test_labels_file is ''; accuracy is measured on held-out "
        "labels: --test_labels_file=FILE"
      )
    return read_labels(self.test_labels_file)

  def encoder(
    self, tokenizer: protocols.Tokenizer, sequence: converters.SequenceConfig
  ) -> Encode:
    """Returns the encoder of training labels."""
    encode = make_encoder(tokenizer, sequence)
    if not self.hard_labels:
      return encode

    def encode_hard(labels):
      pairs, counts = encode(labels)
      return pairs.replace(label=hardened(pairs.label)), counts

    return encode_hard


def read_labels(
  path: str, on_demand: bool = False
) -> Sequence[records.Preference]:
  """Returns the labelled pairs of a file.

  Args:
    path: JSONL of preferences.
    on_demand: if there are several processes, each reads a row when it is
      indexed; see `record_files.RecordsOnDemand`.

  Raises:
    ValueError: if a line is bad (named), or there are no rows.
  """
  on_demand = on_demand and jax.process_count() > 1
  labels = record_files.open_records(
    records.Preference,
    path,
    on_demand=on_demand,
    quarantine=jsonl.of_run(),
  )
  if not labels:
    raise ValueError(f"{path} has no labels; run the label job to its end")
  return labels


def make_encoder(
  tokenizer: protocols.Tokenizer, sequence: converters.SequenceConfig
) -> Encode:
  """Returns encode(labels) -> (pairs, counts of truncated texts)."""
  return lambda labels: converters.encode_preferences(
    labels, tokenizer, sequence
  )


def hardened(label: np.ndarray) -> np.ndarray:
  """Rounds soft labels [n] to 0 or 1; 0.5 stays."""
  return np.where(label == 0.5, 0.5, np.round(label)).astype(np.float32)
