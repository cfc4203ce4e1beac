# SPDX-License-Identifier: Apache-2.0
"""Data and vocabulary of a small task, built once."""

from __future__ import annotations

import json

import pytest

from rlaif_jax.core import records
from rlaif_jax.data import pipeline
from rlaif_jax.jobs import prepare_data
from rlaif_jax.text import tokenizers


@pytest.fixture
def small_task(monkeypatch):
  def rows(split):
    return [
      records.Example(
        id=f"{split}{i}",
        context=f"document {i} of the {split} split with some words in it",
        response=f"summary number {i}",
      )
      for i in range(20)
    ]

  monkeypatch.setattr(
    pipeline, "load_rows", lambda task, split, **kwargs: rows(split)
  )


def test_it_counts_rows_and_trains_a_vocabulary(small_task, tmp_path):
  result = prepare_data.run(
    output_dir=str(tmp_path),
    splits=("train", "test"),
    vocab_size=300,
    templates=("docstring_pairwise", "docstring_rating"),
  )
  assert result["rows"] == {"train": 20, "test": 20}
  tokenizer = tokenizers.load_tokenizer(tmp_path / "tokenizer.model")
  assert tokenizer.vocab_size == 300
  stored = json.loads((tmp_path / "statistics.json").read_text())
  mean = stored["tokens"]["test/response"]["mean"]
  lengths = [len(tokenizer.encode(f"summary number {i}")) for i in range(20)]
  assert mean == pytest.approx(sum(lengths) / 20, abs=0.01)


def test_an_unknown_task_is_named(tmp_path):
  with pytest.raises(ValueError, match="docstring_summary"):
    prepare_data.run(output_dir=str(tmp_path), task="docstrings")


def test_the_same_texts_give_the_same_vocabulary(small_task, tmp_path):
  models = []
  for run in "ab":
    prepare_data.run(
      output_dir=str(tmp_path / run), splits=("train",), vocab_size=310
    )
    models.append((tmp_path / run / "tokenizer.model").read_bytes())
  assert models[0] == models[1]
