# SPDX-License-Identifier: Apache-2.0
"""Examples and splits; several processes read the rows of their own devices."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from rlaif_jax.core import batches
from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.data import converters
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.engine import processes
from rlaif_jax.data import datasets
from tests import testing

TEXTS = [f"the cat {'sat ' * i}" for i in range(12)]
CONFIG = converters.SequenceConfig(max_context=16, max_response=2)
MESH = mesh_lib.make_mesh("data:4", jax.devices()[:4])


@pytest.fixture(name="encoded")
def fixture_encoded():
  return []


@pytest.fixture(name="encode")
def fixture_encode(encoded):
  def encode(texts):
    encoded.append(list(texts))
    prompts, cut = converters.encode_prompts(
      texts, testing.CharTokenizer(), CONFIG
    )
    return prompts, {"cut": cut}

  return encode


@pytest.fixture(name="second_of_three")
def fixture_second_of_three(monkeypatch):
  """This process holds the rows of the second of four devices."""
  monkeypatch.setattr(jax, "process_count", lambda: 3)
  monkeypatch.setattr(jax, "process_index", lambda: 1)
  monkeypatch.setattr(processes, "sum_of_all", dict)
  monkeypatch.setattr(
    mesh_lib, "addressable_rows", lambda mesh, rows: np.arange(rows) // 2 == 1
  )


def test_one_process_encodes_once(encode, encoded):
  rows = datasets.TrainingRows(TEXTS, encode)
  assert len(rows) == 12 and rows.counts == {"cut": 9}
  chosen = np.array([3, 0, 11, 5])
  batch = rows.batch(MESH, chosen)
  whole, _ = converters.encode_prompts(TEXTS, testing.CharTokenizer(), CONFIG)
  for got, expected in zip(
    jax.tree.leaves(batch), jax.tree.leaves(whole), strict=True
  ):
    np.testing.assert_array_equal(got, expected[chosen])
  assert len(encoded) == 1


def test_of_several_each_reads_its_own(encode, encoded, second_of_three):
  del second_of_three
  rows = datasets.TrainingRows(TEXTS, encode)
  assert encoded == [TEXTS[1::3]]  # Looked at once, by one process each.
  chosen = np.array([3, 0, 11, 5, 7, 1, 2, 6])
  batch = rows.batch(MESH, chosen)
  assert encoded[1:] == [[TEXTS[11], TEXTS[5]]]
  assert isinstance(batch, batches.PromptBatch)
  whole, _ = converters.encode_prompts(TEXTS, testing.CharTokenizer(), CONFIG)
  for got, expected in zip(
    jax.tree.leaves(batch), jax.tree.leaves(whole), strict=True
  ):
    np.testing.assert_array_equal(got[2:4], expected[[11, 5]])


@pytest.fixture(name="examples_file")
def fixture_examples_file(tmp_path):
  rows = [
    records.Example(id=str(i), context=text, response="r")
    for i, text in enumerate(TEXTS)
  ]
  jsonl.write_records(tmp_path / "examples.jsonl", rows)
  return str(tmp_path / "examples.jsonl")


def ids(rows):
  return [int(row.id) for row in rows]


def test_examples_come_from_a_file_or_a_task(examples_file):
  source = datasets.ExampleSource(examples_file=examples_file, limit=3)
  assert ids(source.read()) == [0, 1, 2]
  for wrong in ({}, {"task": "t", "examples_file": examples_file}):
    with pytest.raises(ValueError, match="exactly one"):
      datasets.ExampleSource(**wrong).read()


def test_sft_holds_out_the_last_rows_of_a_file(examples_file):
  data = datasets.SFTData(examples_file=examples_file, validation_rows=4)
  assert list(map(ids, data.read_splits())) == [[*range(8)], [8, 9, 10, 11]]
  few = datasets.SFTData(examples_file=examples_file, validation_rows=12)
  with pytest.raises(ValueError, match="validation_rows is 12"):
    few.read_splits()


def test_a_file_of_prompts_serves_training_and_validation(examples_file):
  data = datasets.PromptData(
    examples_file=examples_file, limit=6, validation_rows=2
  )
  assert list(map(ids, data.read_splits())) == [[*range(6)], [0, 1]]


@pytest.mark.parametrize("make", [datasets.SFTData, datasets.PromptData])
def test_a_task_has_splits_of_its_own(monkeypatch, make):
  asked = []

  def load(task, split, *, cache_dir, limit, on_demand):
    asked.append((task, split, cache_dir, limit, on_demand))
    return [split]

  monkeypatch.setattr(datasets.pipeline, "load_examples", load)
  data = make(task="t", data_dir="d", split="s", limit=7, validation_rows=3)
  assert data.read_splits() == (["s"], ["validation"])
  assert sorted(asked) == [
    ("t", "s", "d", 7, False),
    ("t", "validation", "d", 3, False),
  ]
