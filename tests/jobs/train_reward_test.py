# SPDX-License-Identifier: Apache-2.0
"""A reward model learns a visible preference; its curve grows by labels."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest

from rlaif_jax.core import jsonl
from rlaif_jax.core import lora_config
from rlaif_jax.data import preferences
from rlaif_jax.engine import mesh
from rlaif_jax.interop import names
from rlaif_jax.model_io import pretrained
from rlaif_jax.model_io import trainable
from rlaif_jax.reward import kinds
from tests import testing
from tests import tiny_world as tiny


def test_it_learns_and_measures_the_curve(world, tmp_path):
  config = kinds.RewardModelConfig(label_counts=(8, 500))
  result = tiny.reward(world, tmp_path, reward=config)
  assert result["accuracy"] == 1.0 and result["n"] == 32
  curve = jsonl.parse_rows(tmp_path / "out/reward_accuracy.jsonl", dict)
  assert [row["labels"] for row in curve] == [8, 64]
  rows = jsonl.parse_rows(tmp_path / "out/test_rewards.jsonl", dict)
  assert all((r["first"] > r["second"]) == (r["label"] > 0.5) for r in rows)
  described = json.loads((tmp_path / "out/model/model.json").read_text())
  assert described["kind"] == "scalar"


def test_adapters_and_a_head_on_a_frozen_trunk(world, tmp_path):
  config = lora_config.LoraConfig(rank=4)
  optimizer = dataclasses.replace(tiny.ADAM, lora=config)
  result = tiny.reward(world, tmp_path, optimizer=optimizer)
  assert result["accuracy"] == 1.0 and result["n"] == 32
  devices = mesh.make_mesh("data:-1")
  start = pretrained.load(str(world / "sft/model"), "language", devices)
  model = pretrained.load(result["model"], "scalar", devices)
  # A policy's run takes memory for what the adapters have changed only.
  shared = trainable.share_equal(model.params, start.params)
  old = names.flatten({"decoder": start.params})
  for path, leaf in names.flatten(shared).items():
    own = path.startswith("head/") or re.search("(query|value)/kernel", path)
    assert (leaf is old.get(path)) == (not own)


def test_a_difference_model_reads_both_and_has_no_side(world, tmp_path):
  result = tiny.reward(
    world, tmp_path, reward=kinds.RewardModelConfig(kind="difference")
  )
  assert result["accuracy"] == 1.0 and result["n"] == 32
  devices = mesh.make_mesh("data:-1")
  with pytest.raises(ValueError, match="holds a difference model"):
    pretrained.load(result["model"], "scalar", devices)
  model = pretrained.load(result["model"], "difference", devices)
  encode = preferences.make_encoder(model.tokenizer, model.sequence)
  pairs, _ = encode(preferences.read_labels(str(tmp_path / "test.jsonl")))
  margin = kinds.make_pair_scorer("difference", model.functions)
  texts = pairs.texts
  flipped = pairs.replace(
    texts=texts.replace(
      response=texts.response[:, ::-1],
      response_valid=texts.response_valid[:, ::-1],
    )
  )
  one, zero = margin(model.params, pairs)
  np.testing.assert_allclose(
    one, -margin(model.params, flipped)[0], rtol=1e-4, atol=1e-5
  )
  assert not zero.any() and np.abs(one).min() > 0.1
  rows = jsonl.parse_rows(tmp_path / "out/test_rewards.jsonl", dict)
  np.testing.assert_allclose([r["first"] for r in rows], one, rtol=1e-4)
  metrics = jsonl.parse_rows(tmp_path / "out/metrics.jsonl", dict)
  assert "position" in metrics[0] and len(metrics) == 32


def test_the_start_is_not_held_while_training(world, tmp_path, monkeypatch):
  """The table, and AdamW's two moments; for growing numbers of labels too."""
  most = testing.copies_while_training(
    monkeypatch,
    lambda: tiny.reward(
      world,
      tmp_path,
      reward=kinds.RewardModelConfig(label_counts=(8,)),
      train=tiny.train_config(epochs=1.0),
    ),
    tiny.TABLE,
  )
  assert most == 3
