# SPDX-License-Identifier: Apache-2.0
"""Log-probs of the reference are computed once, for these pairs only."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from rlaif_jax.data import preferences
from rlaif_jax.dpo import reference_file
from tests import tiny_world as tiny


def test_they_are_computed_once_and_belong_to_pairs_and_model(tmp_path):
  labels = preferences.read_labels(tiny.labels(tmp_path / "l.jsonl", 3, 0))
  path, calls = tmp_path / "out" / "reference.jsonl", []

  def compute():
    calls.append(1)
    return np.float32([1, 2, 3]) / 3, np.float32([4, 5, 6]) / 3

  for _ in range(2):
    found = reference_file.reference_log_probs(
      path, labels, compute, reference="sft@aa"
    )
    np.testing.assert_array_equal(found, np.stack(compute(), axis=1))
    calls.pop()
  assert len(calls) == 1 and found.dtype == np.float32
  for rows, name in (
    (labels, "sft@bb"),
    (labels[:2], "sft@aa"),
    (labels[::-1], "sft@aa"),
    ([dataclasses.replace(labels[0], first="!"), *labels[1:]], "sft@aa"),
  ):
    with pytest.raises(ValueError, match="new --output_dir"):
      reference_file.reference_log_probs(path, rows, compute, reference=name)
