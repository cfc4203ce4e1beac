# SPDX-License-Identifier: Apache-2.0
"""Pairs are packed where it pays; either way the batch holds the same."""

from __future__ import annotations

import jax
import numpy as np

from rlaif_jax.engine import mesh
from rlaif_jax.data import preference_batches
from rlaif_jax.data import datasets
from tests.data import packing_test

PAIRS = packing_test.with_reference(packing_test.pairs(64))
ROWS = np.arange(5, 37)


def source(pairs=PAIRS, **changes):
  given = dict(batch_size=32, microbatches=2, can_pack=True)
  return preference_batches.PairBatches(
    datasets.HeldRows(pairs),
    mesh.make_mesh("data:2", jax.devices()[:2]),
    **{**given, **changes},
  )


def test_packed_rows_divide_by_devices_and_microbatches():
  pairs = source().batch(ROWS)
  assert pairs.is_packed
  assert pairs.label.shape[0] % 4 == 0
  real = np.asarray(pairs.weight) > 0
  np.testing.assert_array_equal(
    np.sort(np.asarray(pairs.label)[real]), np.sort(PAIRS.label[ROWS])
  )
  np.testing.assert_array_equal(
    np.asarray(pairs.ref_log_probs)[real],
    np.outer(np.asarray(pairs.label)[real], [2.0, 3.0]).astype(np.float32),
  )


def test_few_shapes_come_up():
  generator = np.random.default_rng(0)
  data = source()
  shapes = {
    data.batch(generator.permutation(64)[:32]).label.shape for _ in range(30)
  }
  assert len(shapes) <= 3


def test_models_that_cannot_and_pairs_of_one_length_stay_padded():
  pairs = source(can_pack=False).batch(ROWS)
  np.testing.assert_array_equal(pairs.first.tokens, PAIRS.first.tokens[ROWS])
  np.testing.assert_array_equal(pairs.ref_log_probs, PAIRS.ref_log_probs[ROWS])
  full = packing_test.without_padding(PAIRS)
  assert not source(full).batch(ROWS).is_packed


def test_epochs_go_over_the_rows_that_are_named_and_no_others():
  numbered = PAIRS.replace(label=np.arange(64, dtype=np.float32))
  data = source(numbered, can_pack=False, batch_size=4)
  how = dict(rows=range(40, 52), seed=0, name="second phase")
  seen = [np.asarray(data.at_step(s, **how).label) for s in range(6)]
  for epoch in (seen[:3], seen[3:]):
    assert sorted(np.concatenate(epoch)) == list(range(40, 52))
  again = np.asarray(data.at_step(2, **how).label)
  np.testing.assert_array_equal(again, seen[2])
