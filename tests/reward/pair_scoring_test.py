# SPDX-License-Identifier: Apache-2.0
"""Scores of all pairs in batches, and their file."""

from __future__ import annotations

import numpy as np
import pytest

from rlaif_jax.core import jsonl
from rlaif_jax.data import converters
from rlaif_jax.data import preferences
from rlaif_jax.reward import pair_scoring
from tests import testing
from tests import tiny_world as tiny


@pytest.mark.parametrize("batch_size", [3, 8, 64])
def test_every_pair_is_scored_once_in_order(tmp_path, batch_size):
  labels = preferences.read_labels(tiny.labels(tmp_path / "l.jsonl", 8, 0))
  pairs, _ = converters.encode_preferences(
    labels,
    testing.CharTokenizer(),
    converters.SequenceConfig(max_context=24, max_response=16),
  )
  sizes = []

  def score(params, part):
    sizes.append(len(part.label))
    return np.stack([part.label, params * part.label]), part.weight

  first, second = pair_scoring.predict_pairs(score, 2.0, pairs, batch_size)
  np.testing.assert_array_equal(first, [pairs.label, 2.0 * pairs.label])
  np.testing.assert_array_equal(second, pairs.weight)
  assert set(sizes) == {batch_size}, "one shape, one compilation"


def test_rewards_are_written_by_pair(tmp_path):
  labels = preferences.read_labels(tiny.labels(tmp_path / "l.jsonl", 2, 0))
  pair_scoring.write_test_rewards(
    tmp_path,
    labels,
    (np.array([1.0, 2.0]), np.array([3.0, 4.0])),
    deviation=np.array([0.5, 0.25]),
  )
  rows = jsonl.parse_rows(tmp_path / "test_rewards.jsonl", dict)
  assert rows[1] == {
    "id": "1",
    "label": labels[1].p_first,
    "first": 2.0,
    "second": 4.0,
    "deviation": 0.25,
  }
