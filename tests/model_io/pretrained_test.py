# SPDX-License-Identifier: Apache-2.0
"""Finished models are loaded whole or refused with the reason."""

from __future__ import annotations

import jax
import pytest

from rlaif_jax.engine import mesh
from rlaif_jax.model_io import pretrained


def test_a_model_comes_back_with_what_it_reads(world):
  devices = mesh.make_mesh("data:-1", jax.devices()[:1])
  model = pretrained.load(str(world / "sft" / "model"), "language", devices)
  assert model.config.vocab_size == model.tokenizer.vocab_size == 320
  assert model.sequence.max_response == 8
  copied = pretrained.copy_params(model.params)
  assert jax.tree.structure(copied) == jax.tree.structure(model.params)


def test_another_kind_is_refused(world):
  devices = mesh.make_mesh("data:-1", jax.devices()[:1])
  with pytest.raises(ValueError, match="needs a scalar"):
    pretrained.load(str(world / "sft" / "model"), "scalar", devices)


def test_an_unfinished_run_is_refused(tmp_path):
  devices = mesh.make_mesh("data:-1", jax.devices()[:1])
  with pytest.raises(ValueError, match="no finished model"):
    pretrained.load(str(tmp_path), "language", devices)


def test_examples_come_from_a_file_or_a_task(world):
  settings = dict(split="", data_dir="", limit=3)
  rows = pretrained.load_examples(
    examples_file=str(world / "examples.jsonl"), task="", **settings
  )
  assert [row.id for row in rows] == ["000", "001", "002"]
  with pytest.raises(ValueError, match="exactly"):
    pretrained.load_examples(examples_file="", task="", **settings)
