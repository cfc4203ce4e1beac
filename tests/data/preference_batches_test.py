# SPDX-License-Identifier: Apache-2.0
"""Pairs are packed where it pays; either way the batch holds the same."""

from __future__ import annotations

import jax
import numpy as np

from rlaif_jax.core import batches
from rlaif_jax.engine import mesh
from rlaif_jax.data import preference_batches
from rlaif_jax.data import datasets
from tests.data import packing_test

PAIRS = packing_test.pairs(64)
ROWS = np.arange(5, 37)


def source(pairs=PAIRS, **changes):
  given = dict(
    batch_size=32, microbatches=2, can_pack=True, extra=pairs.label * 2
  )
  return preference_batches.PairBatches(
    datasets.HeldRows(pairs),
    mesh.make_mesh("data:2", jax.devices()[:2]),
    **{**given, **changes},
  )


def test_packed_rows_divide_by_devices_and_microbatches():
  pairs, more = source().batch(ROWS)
  assert isinstance(pairs, batches.PackedPairs)
  assert pairs.label.shape[0] % 4 == 0
  real = np.asarray(pairs.weight) > 0
  np.testing.assert_array_equal(
    np.sort(np.asarray(pairs.label)[real]), np.sort(PAIRS.label[ROWS])
  )
  np.testing.assert_array_equal(
    np.asarray(more["extra"])[real], 2 * np.asarray(pairs.label)[real]
  )


def test_few_shapes_come_up():
  generator = np.random.default_rng(0)
  data = source()
  shapes = {
    data.batch(generator.permutation(64)[:32])[0].label.shape for _ in range(30)
  }
  assert len(shapes) <= 3


def test_models_that_cannot_and_pairs_of_one_length_stay_padded():
  pairs, more = source(can_pack=False).batch(ROWS)
  np.testing.assert_array_equal(pairs.first.tokens, PAIRS.first.tokens[ROWS])
  np.testing.assert_array_equal(more["extra"], 2 * PAIRS.label[ROWS])
  full = PAIRS.replace(
    first=PAIRS.first.replace(valid=np.ones_like(PAIRS.first.valid)),
    second=PAIRS.second.replace(valid=np.ones_like(PAIRS.second.valid)),
  )
  assert isinstance(source(full).batch(ROWS)[0], batches.PairBatch)


def test_epochs_go_over_the_rows_that_are_named_and_no_others():
  data = source(can_pack=False, batch_size=4, numbers=np.arange(64))
  how = dict(rows=range(40, 52), seed=0, name="second phase")
  seen = [np.asarray(data.at_step(s, **how)[1]["numbers"]) for s in range(6)]
  for epoch in (seen[:3], seen[3:]):
    assert sorted(np.concatenate(epoch)) == list(range(40, 52))
  again = np.asarray(data.at_step(2, **how)[1]["numbers"])
  np.testing.assert_array_equal(again, seen[2])
