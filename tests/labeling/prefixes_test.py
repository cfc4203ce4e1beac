# SPDX-License-Identifier: Apache-2.0
"""Shared prefixes: prompts are complete, few tokens are read, few shapes."""

from __future__ import annotations

import random

import numpy as np
import pytest

from rlaif_jax.labeling import prefixes


def read_back(parts):
  """Row -> its tokens, as a model would read them."""
  found = {}
  for part in parts:
    b = part.prompts
    tokens, valid = prefixes.prefix_row(part.prefix, bucket=8)
    assert tokens.shape[1] % 8 == 0 and tokens.shape[1] - valid.sum() <= 8
    prefix = tokens[valid]
    for i, row in enumerate(part.rows):
      group = b.group_ids[i]
      pieces = (
        prefix,
        b.group_tokens[group][b.group_valid[group]],
        b.suffix[i][b.suffix_valid[i]],
      )
      assert row not in found
      found[row] = [int(t) for piece in pieces for t in piece]
    assert not b.suffix_valid[len(part.rows) :].any()
  return found


def tokens_read(parts):
  return sum(
    int(b.group_valid.sum() + b.suffix_valid.sum())
    for b in (part.prompts for part in parts)
  ) + len(parts[0].prefix)


def judge_prompts(rng, pairs, preamble=40):
  """Both orders of pairs: a preamble, a context, two candidates."""
  begin = [rng.randrange(99) for _ in range(preamble)]
  prompts = []
  for _ in range(pairs):
    context = [rng.randrange(99) for _ in range(rng.randrange(20, 60))]
    a, b = ([rng.randrange(99) for _ in range(6)] for _ in "ab")
    prompts += [begin + context + a + b, begin + context + b + a]
  return prompts


def test_any_prompts_are_whole_and_answered_once():
  rng = random.Random(0)
  for trial in range(60):
    ids = [
      [rng.randrange(3) for _ in range(rng.randrange(1, 30))]
      for _ in range(rng.randrange(1, 40))
    ]
    ids += ids[: rng.randrange(5)]
    own = [rng.randrange(1, len(row) + 1) for row in ids]
    sizes = {"batch_size": rng.choice((1, 4, 7)), "bucket": rng.choice((1, 4))}
    parts = list(prefixes.share_prefixes(ids, own, **sizes))
    assert read_back(parts) == dict(enumerate(ids))
    for part in parts:
      assert len(part.rows) <= sizes["batch_size"]
      kept = part.prompts.suffix_valid.sum(axis=1)
      for i, row in enumerate(part.rows):
        assert kept[i] >= own[row], trial


def test_both_orders_read_preamble_and_context_once():
  ids = judge_prompts(random.Random(1), pairs=16)
  parts = list(prefixes.share_prefixes(ids, [1] * 32, batch_size=32, bucket=8))
  contexts = sum(len(row) - 40 - 12 for row in ids[::2])
  # What is read: the preamble once, contexts once, candidates twice.
  assert {part.prefix for part in parts} == {tuple(ids[0][:40])}
  expected = 40 + contexts + 32 * 12
  assert expected - 32 <= tokens_read(parts) <= expected
  assert tokens_read(parts) < 0.5 * sum(map(len, ids))
  shapes = {part.prompts.suffix.shape for part in parts}
  assert len(shapes) <= len(parts) <= 6


def test_batches_do_not_depend_on_the_order_of_the_prompts():
  ids = judge_prompts(random.Random(2), pairs=5)
  turned = list(reversed(ids))
  sizes = {"batch_size": 4, "bucket": 8}
  one = list(prefixes.share_prefixes(ids, [1] * 10, **sizes))
  two = list(prefixes.share_prefixes(turned, [1] * 10, **sizes))
  assert len(one) == len(two)
  for a, b in zip(one, two, strict=True):
    np.testing.assert_array_equal(
      a.prompts.group_tokens, b.prompts.group_tokens
    )
    np.testing.assert_array_equal(a.prompts.suffix, b.prompts.suffix)


def test_the_same_prompt_many_times_fills_batches():
  ids = [[1, 2, 3, 4, 5, 6, 7, row] for row in range(10)]
  parts = list(prefixes.share_prefixes(ids, [1] * 10, batch_size=4, bucket=2))
  assert [len(part.rows) for part in parts] == [4, 4, 2]
  assert read_back(parts) == dict(enumerate(ids))


def test_nothing_to_read_is_an_error():
  assert list(prefixes.share_prefixes([], [], batch_size=4, bucket=2)) == []
  for own in (0, 3):
    with pytest.raises(ValueError, match="prompt 0 has 2 tokens"):
      list(prefixes.share_prefixes([[1, 2]], [own], batch_size=4, bucket=2))


def test_long_prompts_share_lengths():
  lengths = [prefixes.bucket_length(n, 32) for n in (0, 1, 32, 33, 256, 257)]
  assert lengths == [32, 32, 32, 64, 256, 320]
  assert prefixes.bucket_length(513, 32) == 640
  waste = max(
    (prefixes.bucket_length(n, 32) - n) / prefixes.bucket_length(n, 32)
    for n in range(257, 4000)
  )
  assert waste < 0.2
