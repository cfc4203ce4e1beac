# SPDX-License-Identifier: Apache-2.0
"""Weights by a model's gap: mean 1, none for wrong labels, read by losses."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.data import preferences
from rlaif_jax.jobs import train_dpo
from rlaif_jax.jobs import weight_pairs
from rlaif_jax.reward import kinds
from tests import tiny_world as tiny
from tests.jobs import train_dpo_test


@pytest.fixture(scope="module", params=["scalar", "difference"])
def model(request, world, tmp_path_factory):
  """Knows that the text with "cat" is better."""
  directory = tmp_path_factory.mktemp(request.param)
  found = tiny.reward(
    world,
    directory,
    reward=kinds.RewardModelConfig(kind=request.param),
    labels=preferences.LabelsConfig(
      labels_file=train_dpo_test.labels(directory / "known.jsonl", 64, 0),
      test_labels_file=train_dpo_test.labels(directory / "held.jsonl", 16, 1),
    ),
  )
  assert found["accuracy"] == 1.0
  return found["model"]


def half_wrong(path):
  """40 labels: every second one is wrong; the last is a tie."""
  train_dpo_test.labels(path, 40, 2)
  rows = jsonl.read_records(records.Preference, path)
  rows = [
    dataclasses.replace(row, p_first=1.0 - row.p_first) if i % 2 else row
    for i, row in enumerate(rows)
  ]
  rows[-1] = dataclasses.replace(rows[-1], p_first=0.5)
  jsonl.write_records(path, rows)
  return str(path)


def weigh(model, tmp_path, **changes):
  found = weight_pairs.run(
    output_dir=str(tmp_path / "weighed"),
    labels_file=half_wrong(tmp_path / "labels.jsonl"),
    model_dir=model,
    **changes,
  )
  return found, jsonl.read_records(records.Preference, found["labels"])


def test_wrong_labels_weigh_nothing_and_a_policy_learns(world, model, tmp_path):
  found, rows = weigh(model, tmp_path)
  weights = np.asarray([row.weight for row in rows])
  assert (weights[:-1:2] > 0).all() and not weights[1::2].any()
  assert weights.mean() == pytest.approx(1.0, abs=1e-5)
  assert found["without_weight"] == 0.5 and found["n"] == 40
  assert found["effective_pairs"] == pytest.approx(
    weights.sum() ** 2 / (weights**2).sum(), rel=1e-5
  )
  plain = jsonl.read_records(records.Preference, tmp_path / "labels.jsonl")
  assert [dataclasses.replace(row, weight=1.0) for row in rows] == plain
  labels = preferences.LabelsConfig(
    labels_file=found["labels"],
    test_labels_file=train_dpo_test.labels(tmp_path / "test.jsonl", 16, 1),
  )
  result = train_dpo.run(
    **train_dpo_test.settings(world, tmp_path, labels=labels)
  )
  assert result["accuracy"] == 1.0
  # Each batch is a mean over its weights, so the first loss is log 2.
  first = jsonl.parse_rows(tmp_path / "out/metrics.jsonl", dict)[0]
  assert first["loss"] == pytest.approx(np.log(2), abs=1e-4)


def test_controls(model, tmp_path):
  gaps = sorted(row.weight for row in weigh(model, tmp_path)[1])
  shuffled = [r.weight for r in weigh(model, tmp_path, weights="shuffled")[1]]
  assert sorted(shuffled) == gaps and any(shuffled[1::2])
  top = np.asarray([r.weight for r in weigh(model, tmp_path, weights="top")[1]])
  assert set(np.unique(top)) == {0.0, 2.0} and not top[1::2].any()


def test_what_makes_no_sense_is_named(world, model, tmp_path):
  with pytest.raises(ValueError, match="shuffled"):
    weigh(model, tmp_path, weights="gold")
  with pytest.raises(ValueError, match="is a language model"):
    weigh(str(world / "sft" / "model"), tmp_path)
