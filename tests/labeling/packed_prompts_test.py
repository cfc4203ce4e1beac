# SPDX-License-Identifier: Apache-2.0
"""Packed prompts: every one whole, little padding, few shapes."""

from __future__ import annotations

import random

import pytest

from rlaif_jax.labeling import packed_prompts
from tests.labeling import prefixes_test


def pack(ids, batch_size=8, bucket=8):
  segments = packed_prompts.make_segments(ids, bucket=bucket)
  return list(packed_prompts.pack(segments, batch_size=batch_size))


def read_back(parts):
  """Prompt -> its tokens, as a model would read them."""
  found = {}
  for part in parts:
    b = part.batch
    columns = part.columns(8)
    assert (columns[len(part.places) :] == -1).all()
    for i, (prompt, row, number) in enumerate(part.places):
      column = b.columns[row, number]
      segment = b.segment_ids[row, column]
      assert segment > 0 and prompt not in found
      continuation = b.continuation_ids[row, column]
      mine = (b.segment_ids[row] == segment) & (
        (b.continuation_ids[row] == 0)
        | (b.continuation_ids[row] == continuation)
      )
      assert mine.nonzero()[0][-1] == column
      found[prompt] = [*part.prefix, *map(int, b.tokens[row][mine])]
      own = columns[i][columns[i] >= 0]
      assert (b.tokens.flat[own] == b.tokens[row][mine]).all()
  return found


@pytest.mark.parametrize("trial", range(5))
def test_any_prompts_are_whole_and_answered_once(trial):
  rng = random.Random(trial)
  for _ in range(20):
    ids = [
      [rng.randrange(3) for _ in range(rng.randrange(1, 30))]
      for _ in range(rng.randrange(1, 40))
    ]
    ids += ids[: rng.randrange(5)]
    assert read_back(pack(ids)) == dict(enumerate(ids))


def test_both_orders_share_their_context():
  ids = prefixes_test.judge_prompts(random.Random(0), 50)
  parts = pack(ids, batch_size=16)
  real = sum(int((part.batch.segment_ids > 0).sum()) for part in parts)
  assert real < 0.65 * sum(len(row) - 40 for row in ids)


def test_little_is_padding_and_few_programs_are_compiled():
  rng = random.Random(0)
  shapes, cells, real = set(), 0, 0
  for _ in range(20):
    ids = prefixes_test.judge_prompts(rng, 64)
    for part in pack(ids, batch_size=32):
      segment_ids = part.batch.segment_ids
      shapes.add((segment_ids.shape, part.batch.columns.shape))
      cells += segment_ids.size
      real += int((segment_ids > 0).sum())
  assert real > 0.8 * cells
  assert len(shapes) <= 6


def test_the_layout_depends_on_the_tokens_only():
  ids = prefixes_test.judge_prompts(random.Random(0), 20)
  turned = ids[::-1]
  for one, two in zip(pack(ids), pack(turned), strict=True):
    assert (one.batch.tokens == two.batch.tokens).all()
    assert [(len(ids) - 1 - p, r, n) for p, r, n in two.places] == one.places


def test_prompts_of_one_length_are_padded():
  alike = [[1] * 16 + [2 + i] * 30 + [0] for i in range(8)]
  assert not packed_prompts.make_segments(alike, bucket=8).is_uneven
  more = packed_prompts.make_segments([*alike, [1] * 90], bucket=8)
  assert more.is_uneven


def test_none_is_none():
  assert pack([]) == []
