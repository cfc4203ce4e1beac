# SPDX-License-Identifier: Apache-2.0
"""A reward model learns a visible preference; its curve grows by labels."""

from __future__ import annotations

import contextlib
import dataclasses
import json

import numpy as np
import pytest

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.data import converters
from rlaif_jax.engine import mesh
from rlaif_jax.engine import optimizer
from rlaif_jax.model_io import pretrained
from rlaif_jax.jobs import train_reward
from rlaif_jax.models import architectures
from tests import testing
from tests.jobs import conftest


def labels(path, n, seed):
  """The text with "cat" is better."""
  generator = np.random.default_rng(seed)
  rows = []
  for i in range(n):
    good, bad = "a cat sat", "ten dogs saw"
    swap = bool(generator.integers(2))
    rows.append(
      records.Preference(
        id=str(i),
        context="the mat and the hat",
        first=bad if swap else good,
        second=good if swap else bad,
        p_first=0.1 if swap else 0.9,
        labeler="test",
      )
    )
  jsonl.write_records(path, rows)
  return str(path)


def train(world, tmp_path, **changes):
  settings = dict(
    output_dir=str(tmp_path / "out"),
    labels_file=labels(tmp_path / "train.jsonl", 64, 0),
    test_labels_file=labels(tmp_path / "test.jsonl", 32, 1),
    init_from=str(world / "sft" / "model"),
    optimizer=optimizer.OptimizerConfig(name="adamw", learning_rate=1e-2),
    epochs=4.0,
    batch_size=8,
  )
  return train_reward.run(**{**settings, **changes})


def test_it_learns_and_measures_the_curve(world, tmp_path):
  result = train(world, tmp_path, label_counts=(8, 500))
  assert result["accuracy"] == 1.0 and result["n"] == 32
  curve = jsonl.parse_rows(tmp_path / "out/reward_accuracy.jsonl", dict)
  assert [row["labels"] for row in curve] == [8, 64]
  rows = jsonl.parse_rows(tmp_path / "out/test_rewards.jsonl", dict)
  assert all((r["first"] > r["second"]) == (r["label"] > 0.5) for r in rows)
  described = json.loads((tmp_path / "out/model/model.json").read_text())
  assert described["kind"] == "scalar"


def test_an_empty_labels_file_is_an_error(tmp_path):
  path = tmp_path / "labels.jsonl"
  path.write_text("")
  with pytest.raises(ValueError, match="no labels"):
    train_reward.read_labels(str(path))


def test_a_label_outside_zero_one_is_named_by_line(tmp_path):
  path = tmp_path / "labels.jsonl"
  labels(path, 3, 0)
  lines = path.read_text().splitlines()
  lines[1] = lines[1].replace('"p_first": 0.', '"p_first": 7.')
  path.write_text("\n".join(lines) + "\n")
  with pytest.raises(ValueError, match=r"labels\.jsonl:2.*probability"):
    train_reward.read_labels(str(path))


def test_a_difference_model_reads_both_and_has_no_side(world, tmp_path):
  result = train(world, tmp_path, kind="difference")
  assert result["accuracy"] == 1.0 and result["n"] == 32
  devices = mesh.make_mesh("data:-1")
  with pytest.raises(ValueError, match="holds a difference model"):
    pretrained.load(result["model"], "scalar", devices)
  model = pretrained.load(result["model"], "difference", devices)
  pairs, _ = train_reward.encoder(model)(
    train_reward.read_labels(str(tmp_path / "test.jsonl"))
  )
  margin = train_reward.pair_scorer("difference", model.functions)
  turned = pairs.replace(first=pairs.second, second=pairs.first)
  one, zero = margin(model.params, pairs)
  np.testing.assert_allclose(
    one, -margin(model.params, turned)[0], rtol=1e-4, atol=1e-5
  )
  assert not zero.any() and np.abs(one).min() > 0.1
  rows = jsonl.parse_rows(tmp_path / "out/test_rewards.jsonl", dict)
  np.testing.assert_allclose([r["first"] for r in rows], one, rtol=1e-4)
  metrics = jsonl.parse_rows(tmp_path / "out/metrics.jsonl", dict)
  assert "position" in metrics[0] and len(metrics) == 32


@pytest.mark.parametrize(
  "changes, word",
  [
    (dict(kind="pairs"), "difference"),
    (dict(kind="difference", label_smoothing=0.1), "label_smoothing"),
  ],
)
def test_kinds_that_make_no_sense_are_named(world, tmp_path, changes, word):
  with pytest.raises(ValueError, match=word):
    train(world, tmp_path, **changes)


def test_two_responses_that_the_model_cannot_read_are_an_error(world):
  model = pretrained.load(
    str(world / "sft" / "model"), "language", mesh.make_mesh("data:-1")
  )
  length = converters.prompt_length(model.sequence, model.tokenizer) + 16
  for limit, fits in ((length, True), (length - 1, False)):
    config = dataclasses.replace(model.config, max_length=limit)
    short = dataclasses.replace(model, config=config)
    context = pytest.raises(ValueError, match=f"up to {length} tokens")
    with contextlib.nullcontext() if fits else context:
      train_reward.training_of(
        "difference", short, architectures.scalar(config), 0.0
      )


def test_the_start_is_not_held_while_training(world, tmp_path, monkeypatch):
  """The table, and AdamW's two moments; for growing numbers of labels too."""
  most = testing.copies_while_training(
    monkeypatch,
    lambda: train(world, tmp_path, label_counts=(8,), epochs=1.0),
    (conftest.MODEL.vocab_size, conftest.MODEL.width),
  )
  assert most == 3
