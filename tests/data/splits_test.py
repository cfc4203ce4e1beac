# SPDX-License-Identifier: Apache-2.0
"""Tests of rlaif_jax.data.splits."""

from __future__ import annotations

import collections

from rlaif_jax.data import splits


def test_shares_are_kept():
  count = collections.Counter(splits.split_of(f"m{i}") for i in range(20_000))
  assert sum(share for _, share in splits.SHARES) == 100
  for name, share in splits.SHARES:
    assert abs(count[name] / 200 - share) < 1.0


def test_split_is_the_same_everywhere():
  known = {
    "json.decoder": "rl",
    "jax._src.api": "test",
    "os": "rl",
    "": "train",
    "caf\u00e9": "preference",
  }
  assert {name: splits.split_of(name) for name in known} == known


def test_word_runs_detect_copies():
  words = [f"w{i}" for i in range(40)]
  text = " ".join(words)
  copied = "Before it: " + ", ".join(words[5:17]).upper() + "; after it."
  shorter = " ".join([*words[5:16], "x", *words[17:28]])
  assert splits.word_runs(text) & splits.word_runs(copied)
  assert not splits.word_runs(text) & splits.word_runs(shorter)
  assert len(splits.word_runs(text)) == 40 - 12 + 1
  assert splits.word_runs("a b") == splits.word_runs("A,  b!")
