# SPDX-License-Identifier: Apache-2.0
"""Streams of pairs: shards, limits, preferences, bad lines."""

from __future__ import annotations

import pathlib

import pytest

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.labeling import pair_source


def pairs(count=8):
  for i in range(count):
    yield records.Pair(id=f"p{i}", context=f"doc {i}", first="a", second="b")


def read(path, **settings):
  return pair_source.PairSource(pairs_file=path, **settings).read()


def test_shards_part_the_pairs_by_their_texts(tmp_path):
  path = str(tmp_path / "pairs.jsonl")
  jsonl.write_records(path, pairs(64))
  parts = [[p.id for p in read(path, shard=f"{k}/3")] for k in range(3)]
  assert sorted(sum(parts, [])) == sorted(p.id for p in pairs(64))
  assert min(map(len, parts)) > 10
  few = [p.id for k in range(3) for p in read(path, limit=5, shard=f"{k}/3")]
  assert sorted(few) == [f"p{i}" for i in range(5)]
  renamed = [
    records.Pair(id="x", context=p.context, first=p.first, second=p.second)
    for p in pairs(64)
  ]
  jsonl.write_records(path, renamed)
  assert len(list(read(path, shard="0/3"))) == len(parts[0])


def test_pairs_that_humans_have_labelled_are_pairs(tmp_path):
  path = str(tmp_path / "preferences.jsonl")
  labelled = [
    records.Preference(
      **records.to_row(pair), p_first=1.0, labeler="human", confidence=9
    )
    for pair in pairs(3)
  ]
  jsonl.write_records(path, labelled)
  assert list(read(path)) == list(pairs(3))
  # Unknown names are an error where no label stands beside them.
  pathlib.Path(path).write_text('{"id": "a", "context": "b", "frist": "c"}\n')
  with pytest.raises(ValueError, match="frist"):
    list(read(path))


def test_bad_lines_are_quarantined_once_and_then_skipped(tmp_path):
  path = tmp_path / "pairs.jsonl"
  jsonl.write_records(path, pairs(3))
  path.write_bytes(path.read_bytes() + b"{}\n")
  source = pair_source.PairSource(pairs_file=str(path))
  quarantine = jsonl.Quarantine()
  assert source.count(quarantine) == 3 and len(quarantine.rows) == 1
  assert list(source.read_valid()) == list(pairs(3))
  with pytest.raises(ValueError, match="pairs.jsonl:4"):
    list(source.read())
  path.write_text("\n")
  with pytest.raises(ValueError, match="has no pairs"):
    source.count(quarantine)


@pytest.mark.parametrize("shard", ["2/2", "x", "-1/2", "0", "0/0"])
def test_wrong_shards_and_limits(shard):
  with pytest.raises(ValueError, match="PairSource.shard is"):
    pair_source.PairSource(pairs_file="x", shard=shard)
  with pytest.raises(ValueError, match="PairSource.limit is -1"):
    pair_source.PairSource(pairs_file="x", limit=-1)
