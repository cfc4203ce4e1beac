# SPDX-License-Identifier: Apache-2.0
"""A policy learns a visible preference from pairs alone."""

from __future__ import annotations

import numpy as np
import pytest

from rlaif_jax.core import jsonl
from rlaif_jax.core import lora_config
from rlaif_jax.data import preferences
from rlaif_jax.engine import mesh
from rlaif_jax.engine import optimizer
from rlaif_jax.engine import scoring
from rlaif_jax.jobs import train_dpo
from rlaif_jax.model_io import pretrained
from tests import testing
from tests import tiny_world as tiny


def labels(path, n, seed):
  """Contexts and texts differ in length."""
  return tiny.labels(
    path,
    n,
    seed,
    bad="ten dogs saw one red hat",
    context=lambda generator: " ".join(
      ["the mat and"] * generator.integers(1, 4)
    ),
  )


def settings(world, tmp_path, **changes):
  defaults = dict(
    output_dir=str(tmp_path / "out"),
    labels=preferences.LabelsConfig(
      labels_file=labels(tmp_path / "train.jsonl", 32, 0),
      test_labels_file=labels(tmp_path / "test.jsonl", 16, 1),
    ),
    policy_dir=str(world / "sft" / "model"),
    optimizer=optimizer.OptimizerConfig(name="adamw", learning_rate=5e-3),
    train=tiny.train_config(epochs=3.0),
  )
  return {**defaults, **changes}


def test_it_learns_measures_and_keeps_the_reference(world, tmp_path):
  result = train_dpo.run(**settings(world, tmp_path))
  assert result["accuracy"] == 1.0 and result["n"] == 16
  metrics = jsonl.parse_rows(tmp_path / "out/metrics.jsonl", dict)
  assert len(metrics) == 12
  assert abs(metrics[0]["loss"] - np.log(2)) < 1e-4, (
    "it starts at the reference"
  )
  assert metrics[-1]["loss"] < 0.5 and metrics[-1]["reward_margin"] > 0.5
  assert not (tmp_path / "out/adapter").exists()
  # The reference is that of the model on disk, pair by pair.
  policy = pretrained.load(
    str(world / "sft" / "model"), "language", mesh.make_mesh("data:-1")
  )
  encode = preferences.make_encoder(policy.tokenizer, policy.sequence)
  part, _ = encode(preferences.read_labels(str(tmp_path / "train.jsonl")))
  for side, text in (("first", part.first), ("second", part.second)):
    log_probs = scoring.response_log_probs(
      policy.functions, policy.params, text
    )
    expected = np.sum(np.where(text.weights > 0, log_probs, 0.0), axis=1)
    rows = jsonl.parse_rows(tmp_path / "out/reference.jsonl", dict)[1:]
    np.testing.assert_allclose(
      [row[side] for row in rows], expected, rtol=1e-4, atol=1e-4
    )


def test_another_reference_moves_the_start_of_the_loss(world, tmp_path):
  first = settings(world, tmp_path, train=tiny.train_config(epochs=1.0))
  train_dpo.run(**first)
  result = train_dpo.run(
    **settings(
      world,
      tmp_path,
      output_dir=str(tmp_path / "second"),
      policy_dir=str(tmp_path / "out" / "model"),
      reference_dir=str(world / "sft" / "model"),
      labels=preferences.LabelsConfig(
        labels_file=first["labels"].labels_file, hard_labels=True
      ),
      train=tiny.train_config(epochs=0.25),
    )
  )
  (row,) = jsonl.parse_rows(tmp_path / "second/metrics.jsonl", dict)
  assert row["loss"] < 0.6 and row["accuracy"] == 1.0
  assert result["labels"] == 32 and "n" not in result


def test_a_reference_file_of_other_pairs_is_an_error(world, tmp_path):
  given = settings(world, tmp_path)
  path = tmp_path / "out" / "reference.jsonl"
  head = {"reference": "sft", "pairs": 31}
  jsonl.write_text(path, jsonl.dump_row(head) + "\n")
  with pytest.raises(ValueError, match="new --output_dir"):
    train_dpo.run(**given)


def test_nothing_but_the_state_is_held_while_training(
  world, tmp_path, monkeypatch
):
  """Neither the start nor the reference: the table, and AdamW's two moments."""
  given = settings(world, tmp_path)
  given["reference_dir"] = given["policy_dir"]
  most = testing.copies_while_training(
    monkeypatch, lambda: train_dpo.run(**given), tiny.TABLE
  )
  assert most == 3


def test_adapters_learn_the_preference(world, tmp_path):
  config = lora_config.LoraConfig(rank=4, targets=(r".*/kernel",))
  adam = optimizer.OptimizerConfig(
    name="adamw", learning_rate=2e-2, lora=config
  )
  result = train_dpo.run(**settings(world, tmp_path, optimizer=adam))
  assert result["accuracy"] == 1.0
  metrics = jsonl.parse_rows(tmp_path / "out/metrics.jsonl", dict)
  assert abs(metrics[0]["loss"] - np.log(2)) < 1e-6
  assert metrics[-1]["loss"] < 0.5
  assert (tmp_path / "out/adapter/adapter_model.safetensors").exists()
