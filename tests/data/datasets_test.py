# SPDX-License-Identifier: Apache-2.0
"""Rows of a run: all in memory for one process, on demand for several."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from rlaif_jax.core import batches
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
    mesh_lib, "held_rows", lambda mesh, rows: np.arange(rows) // 2 == 1
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
