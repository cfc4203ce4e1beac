# SPDX-License-Identifier: Apache-2.0
"""Packed rows hold every pair once, whole, and within their room."""

from __future__ import annotations

import numpy as np
import pytest

from rlaif_jax.core import batches
from rlaif_jax.data import packing
from tests import testing

PROMPT, RESPONSE = 20, 8


def pairs(count=40, seed=0):
  """Each text has tokens of its own; some responses are empty."""
  generator = np.random.default_rng(seed)
  lengths = generator.integers(
    [3, 0, 1], [PROMPT + 1, RESPONSE, RESPONSE + 1], (count, 3)
  )
  valid = np.arange(PROMPT)[None] >= PROMPT - lengths[:, :1]
  prompt = generator.integers(1, 10_000, (count, PROMPT))

  def side(length):
    response = np.arange(RESPONSE)[None] < length[:, None]
    tokens = generator.integers(1, 10_000, response.shape)
    return batches.TokenBatch(
      tokens=np.concatenate([prompt, tokens], axis=1).astype(np.int32),
      valid=np.concatenate([valid, response], axis=1),
      weights=response.astype(np.float32),
    )

  return testing.pair_batch(
    first=side(lengths[:, 1]),
    second=side(lengths[:, 2]),
    label=generator.random(count).astype(np.float32),
    weight=np.ones(count, np.float32),
  )


def with_reference(pairs):
  """Reference log-probs that tell which pair and which side they are of."""
  known = np.outer(pairs.label, [2.0, 3.0]).astype(np.float32)
  return pairs.replace(ref_log_probs=known)


def without_padding(pairs):
  return pairs.replace(
    texts=pairs.texts.replace(
      prompt_valid=np.ones_like(pairs.texts.prompt_valid),
      response_valid=np.ones_like(pairs.texts.response_valid),
    )
  )


def unpacked(packed):
  """{label: ([prompt, first, second], reference log-probs)}; checks columns."""
  found = {}
  texts = packed.texts
  for row, place in zip(*np.nonzero(packed.weight), strict=True):
    parts = []
    mine = texts.segment_ids[row] == place + 1
    for branch in (0, 1, 2):
      parts.append(
        texts.tokens[row][mine & (texts.continuation_ids[row] == branch)]
      )
    for which in (0, 1):
      aims = texts.response_ids[row] == 2 * place + which
      np.testing.assert_array_equal(texts.targets[row][aims], parts[which + 1])
      # What predicts the targets, then what comes last: the text itself.
      read = texts.tokens[row][texts.columns[row][aims]]
      read = np.append(
        read, texts.tokens[row][texts.last[row, 2 * place + which]]
      )
      whole = np.concatenate([parts[0], parts[which + 1]])
      np.testing.assert_array_equal(read, whole[len(parts[0]) - 1 :])
    found[float(packed.label[row, place])] = (
      parts,
      packed.ref_log_probs[row, place],
    )
  return found


def test_every_pair_is_packed_once_and_whole():
  batch = with_reference(pairs())
  lengths = packing.lengths_of(batch)
  shape = packing.row_shape(lengths, round_to=8)
  packed = packing.pack_pairs(batch, shape, multiple=4)
  assert packed.texts.tokens.shape[0] % 4 == 0
  assert packed.texts.tokens.shape[1] == shape.columns
  found = unpacked(packed)
  assert len(found) == 40
  for pair in range(40):
    (prompt, first, second), known = found[float(batch.label[pair])]
    np.testing.assert_array_equal(known, batch.ref_log_probs[pair])
    sides = (batch.first, batch.second)
    for side, part in zip(sides, (first, second), strict=True):
      np.testing.assert_array_equal(
        np.concatenate([prompt, part]), side.tokens[pair][side.valid[pair]]
      )


def test_rows_are_fewer_than_pairs_and_nearly_full():
  batch = pairs(400)
  lengths = packing.lengths_of(batch)
  shape = packing.row_shape(lengths, round_to=8)
  rows = packing.assign(lengths, shape)
  filled = np.sum(lengths.both) / (len(rows) * shape.columns)
  assert filled > 0.8
  assert packing.is_worth_it(batch)


def test_pairs_of_one_length_are_not_packed():
  assert not packing.is_worth_it(without_padding(pairs()))


@pytest.mark.parametrize("field", ["columns", "targets"])
def test_a_pair_that_does_not_fit_is_an_error(field):
  lengths = packing.lengths_of(pairs())
  sizes = dict(columns=40, targets=16, pairs=4)
  shape = packing.RowShape(**{**sizes, field: 10})
  with pytest.raises(ValueError, match="does not fit"):
    packing.assign(lengths, shape)
