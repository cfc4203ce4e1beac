# SPDX-License-Identifier: Apache-2.0
"""The gold reward of a job, from files."""

from __future__ import annotations

import pytest

from rlaif_jax.api import gold_rewards
from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.evaluation import gold
from rlaif_jax.evaluation import nearness
from tests import tiny_encoder


def example(number, context, response):
  return records.Example(id=f"e{number}", context=context, response=response)


@pytest.fixture
def folder(tmp_path):
  tiny_encoder.write(tmp_path / "encoder")
  rows = {"test": ("x", "red zebra"), "train": ("y", "the cache")}
  for name, row in rows.items():
    jsonl.write_records(tmp_path / f"rows/{name}.jsonl", [example(0, *row)])
  (tmp_path / "rows/manifest.json").write_text("{}")
  return tmp_path


def source(folder, **fields):
  return gold_rewards.NearnessSource(
    encoder_dir=str(folder / "encoder"),
    references_dir=str(folder / "rows"),
    **fields,
  )


def test_the_program_is_the_default():
  assert gold_rewards.load(None) is gold.program


def test_nearness_reads_all_splits(folder):
  reward = gold_rewards.load(source(folder))
  found = reward(["x", "y", "x"], ["red zebra", "the cache", "the cache"])
  assert found.parts["similarity"][:2] == pytest.approx(1.0)
  assert found.total[2] < found.total[1] < found.total[0]  # It has an article.
  weights = nearness.NearnessConfig(similarity=0.0, chrf=0.0)
  rules = gold_rewards.load(source(folder, weights=weights))
  assert rules(["y"], ["the cache"]).total[0] == pytest.approx(0.8)


def test_a_document_with_two_lines_is_refused(folder):
  rows = [
    example(0, "z", "one"),
    example(1, "z", "one"),
    example(2, "z", "two"),
  ]
  path = folder / "rows/validation.jsonl"
  jsonl.write_records(path, rows[:2])
  assert gold_rewards.read_human_lines(str(folder / "rows"))["z"] == "one"
  jsonl.write_records(path, rows)
  with pytest.raises(ValueError, match="validation.jsonl.*e2.*'one' and 'two'"):
    gold_rewards.read_human_lines(str(folder / "rows"))


def test_a_folder_without_examples_is_named(tmp_path):
  with pytest.raises(ValueError, match="references_dir is .*prepare job"):
    gold_rewards.read_human_lines(str(tmp_path / "nowhere"))
