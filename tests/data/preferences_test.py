# SPDX-License-Identifier: Apache-2.0
"""Files of labelled pairs: bad lines are named, labels can be rounded."""

from __future__ import annotations

import numpy as np
import pytest

from rlaif_jax.data import converters
from rlaif_jax.data import preferences
from tests import testing
from tests import tiny_world as tiny


def test_an_empty_labels_file_is_an_error(tmp_path):
  path = tmp_path / "labels.jsonl"
  path.write_text("")
  with pytest.raises(ValueError, match="no labels"):
    preferences.read_labels(str(path))


def test_a_label_outside_zero_one_is_named_by_line(tmp_path):
  path = tmp_path / "labels.jsonl"
  tiny.labels(path, 3, 0)
  lines = path.read_text().splitlines()
  lines[1] = lines[1].replace('"p_first": 0.', '"p_first": 7.')
  path.write_text("\n".join(lines) + "\n")
  with pytest.raises(ValueError, match=r"labels\.jsonl:2.*probability"):
    preferences.read_labels(str(path))


def test_only_training_labels_are_rounded(tmp_path):
  labels = tiny.labels_config(tmp_path, 8, hard_labels=True)
  text = (
    testing.CharTokenizer(),
    converters.SequenceConfig(max_context=24, max_response=16),
  )
  soft, _ = preferences.make_encoder(*text)(labels.read())
  hard, counts = labels.encoder(*text)(labels.read())
  np.testing.assert_array_equal(hard.label, np.round(soft.label))
  assert set(soft.label) == {np.float32(0.1), np.float32(0.9)}
  assert counts == {"cut_contexts": 0, "cut_responses": 0}
  assert len(labels.read_test()) == 32
  np.testing.assert_array_equal(
    preferences.hardened(np.array([0.5, 0.51, 0.2])), [0.5, 1.0, 0.0]
  )


def test_no_test_labels_is_an_error(tmp_path):
  labels = tiny.labels_config(tmp_path, 8, test_labels_file="")
  with pytest.raises(ValueError, match="test_labels_file"):
    labels.read_test()
