# SPDX-License-Identifier: Apache-2.0
"""Pairs whose worse side is worse in a known way."""

from __future__ import annotations

import pytest

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.jobs import corrupt_pairs


def examples(count=24):
  return [
    records.Example(
      id=f"e{i}",
      context=f"Document {i} tells of many things.\nAnd of more than {i}.",
      response=f"The {i} things of a document.",
      source=f"s{i // 2}",
    )
    for i in range(count)
  ]


@pytest.fixture(name="world")
def fixture_world(tmp_path):
  jsonl.write_records(tmp_path / "examples.jsonl", examples())
  responses = [
    records.Response(
      id=e.id,
      index=k,
      context=e.context,
      text=f"model {k} says {e.id}" if e.id != "e3" else e.response,
      tokens=3,
      finished=True,
    )
    for e in examples()
    for k in range(2)
  ]
  jsonl.write_records(tmp_path / "responses.jsonl", responses)
  return tmp_path


def build(world, **settings):
  result = corrupt_pairs.run(
    output_dir=str(world / "out"),
    examples_file=str(world / "examples.jsonl"),
    **settings,
  )
  return result, jsonl.read_records(records.Preference, result["labels"])


def worse(row):
  return row.second if row.p_first == 1.0 else row.first


def better(row):
  return row.first if row.p_first == 1.0 else row.second


def test_each_kind_is_what_it_says(world):
  result, rows = build(
    world,
    kinds=corrupt_pairs.KINDS,
    responses_file=str(world / "responses.jsonl"),
  )
  by_context = {e.context: e for e in examples()}
  assert result["pairs"] == len(rows) == 4 * 24 - 1
  assert result["left_out"] == {
    "other": 0,
    "shuffled": 0,
    "lead": 0,
    "model": 1,
  }
  for row in rows:
    own = by_context[row.context]
    assert better(row) == own.response
    if row.source == "other":
      (from_,) = [e for e in examples() if e.response == worse(row)]
      assert from_.source != own.source
    elif row.source == "shuffled":
      words = worse(row).rstrip(".").split()
      assert sorted(words) == sorted(own.response.rstrip(".").split())
      assert worse(row) != own.response and worse(row).endswith(".")
    elif row.source == "lead":
      assert worse(row).startswith("Document") and len(worse(row).split()) == 6
    else:
      assert worse(row) == f"model 0 says {own.id}"
  first = sum(row.p_first for row in rows)
  assert 0.3 * len(rows) < first < 0.7 * len(rows)
  assert len({row.id for row in rows}) == len(rows)


def test_the_same_rows_every_time(world):
  first, again = build(world)[1], build(world)[1]
  assert first == again
  few = build(world, limit=5)[1]
  assert len(few) == 15


@pytest.mark.parametrize(
  "settings",
  [{"kinds": ("better",)}, {"kinds": ()}, {"kinds": ("model",)}],
)
def test_wrong_kinds_are_named(world, settings):
  with pytest.raises(ValueError, match="corrupt_pairs: kinds is"):
    build(world, **settings)
