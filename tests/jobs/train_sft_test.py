# SPDX-License-Identifier: Apache-2.0
"""The SFT job: training, adapters, and errors before the first compile."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from rlaif_jax.core import jsonl
from rlaif_jax.engine import mesh
from rlaif_jax.interop import names
from rlaif_jax.interop import peft_files
from rlaif_jax.interop import sources
from rlaif_jax.model_io import pretrained
from rlaif_jax.models import lora
from tests import testing
from tests import tiny_world as tiny


def test_it_learns_and_reports_what_was_cut(world, tmp_path):
  result = tiny.sft(
    world,
    output_dir=str(tmp_path),
    train=tiny.train_config(num_steps=60, evaluate_every=30),
    data=tiny.sft_data(world, context_weight=0.5),
  )
  rows = jsonl.parse_rows(tmp_path / "evaluations.jsonl", dict)
  nll = [row["validation_response_nll"] for row in rows]
  assert len(nll) == 3 and min(nll[1:]) < nll[0] - 0.8
  assert result["rows"] == 20 and result["validation_rows"] == 4


def test_a_vocabulary_that_does_not_fit_is_an_error(world, tmp_path):
  model = dataclasses.replace(tiny.MODEL, vocab_size=319)
  with pytest.raises(ValueError, match="320 pieces and the model 319"):
    tiny.sft(world, output_dir=str(tmp_path), model=model)
  assert not (tmp_path / "checkpoints").exists()


def test_a_prompt_longer_than_the_model_is_an_error(world, tmp_path):
  sequence = dataclasses.replace(tiny.SEQUENCE, max_context=400)
  data = tiny.sft_data(world, sequence=sequence)
  with pytest.raises(ValueError, match="max_context"):
    tiny.sft(world, output_dir=str(tmp_path), data=data)


def test_texts_that_are_cut_are_counted(world, tmp_path):
  sequence = dataclasses.replace(tiny.SEQUENCE, max_context=5, max_response=3)
  data = tiny.sft_data(world, sequence=sequence)
  result = tiny.sft(world, output_dir=str(tmp_path), data=data)
  assert result["cut_contexts"] == 20 and result["cut_responses"] == 20


def test_adapters_learn_and_the_model_stays(world, tmp_path):
  start = str(world / "sft" / "model")
  result = tiny.sft(
    world,
    output_dir=str(tmp_path),
    model=None,
    data=tiny.sft_data(world, sequence=None),
    init_from=start,
    optimizer=dataclasses.replace(
      tiny.ADAM,
      lora=lora.LoraConfig(rank=4, targets=(r".*/(query|value|up)/kernel",)),
    ),
    train=tiny.train_config(num_steps=30, evaluate_every=15),
  )
  rows = jsonl.parse_rows(tmp_path / "evaluations.jsonl", dict)
  nll = [row["validation_response_nll"] for row in rows]
  assert nll[-1] < nll[0] - 0.1
  assert result["validation_response_nll"] == pytest.approx(nll[-1], rel=1e-5)
  devices = mesh.make_mesh("data:1", jax.devices()[:1])
  before = pretrained.load(start, "language", devices)
  after = pretrained.load(str(tmp_path / "model"), "language", devices)
  adapters, config = peft_files.load(
    tmp_path / "adapter", sources.hf_rules(before.config)
  )
  assert config.rank == 4 and len(adapters) == 3
  # The finished model is the old one with the adapter, and nothing else.
  merged = names.flatten(lora.merge(before.params, adapters, config))
  for path, leaf in names.flatten(after.params).items():
    np.testing.assert_allclose(leaf, merged[path], atol=1e-6)
    same = np.array_equal(leaf, names.flatten(before.params)[path])
    assert same != (path in adapters)


def test_the_start_is_not_held_while_training(world, tmp_path, monkeypatch):
  """The table, and AdamW's two moments; in a resumed run as well."""

  def train(steps):
    tiny.sft(
      world,
      output_dir=str(tmp_path),
      init_from=str(world / "sft" / "model"),
      model=None,
      train=tiny.train_config(num_steps=steps, save_every=2),
    )

  for steps in (4, 8):
    most = testing.copies_while_training(
      monkeypatch,
      lambda n=steps: train(n),
      tiny.TABLE,
    )
    assert most == 3
