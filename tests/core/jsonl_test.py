# SPDX-License-Identifier: Apache-2.0
"""Bad lines are named by file and line, or set aside with the reason."""

from __future__ import annotations

import gzip
import json

import pytest

from rlaif_jax.core import jsonl
from rlaif_jax.core import records


def example(i):
  return records.Example(id=str(i), context="c", response="r")


def test_round_trip_plain_and_gzipped(tmp_path):
  rows = [example(i) for i in range(3)]
  path = tmp_path / "deep" / "rows.jsonl"
  assert jsonl.write_records(path, rows) == 3
  assert jsonl.read_records(records.Example, path) == rows
  packed = tmp_path / "rows.jsonl.gz"
  packed.write_bytes(gzip.compress(path.read_bytes()))
  assert jsonl.read_records(records.Example, packed) == rows
  assert [p.name for p in path.parent.iterdir()] == ["rows.jsonl"]


@pytest.mark.parametrize("line", ["{", '{"id": "1"}', "[]"])
def test_a_malformed_line_is_named(tmp_path, line):
  path = tmp_path / "rows.jsonl"
  good = json.dumps(records.to_row(example(0)))
  path.write_text(f"{good}\n\n{line}\n{good}\n")
  with pytest.raises(ValueError, match=r"rows\.jsonl:3"):
    jsonl.read_records(records.Example, path)


def test_quarantine_keeps_the_good_rows(tmp_path):
  path = tmp_path / "rows.jsonl"
  good = json.dumps(records.to_row(example(0)))
  path.write_text(f"{good}\nnot json\n{good}\n")
  quarantine = jsonl.Quarantine()
  rows = jsonl.read_records(records.Example, path, quarantine)
  assert len(rows) == 2
  assert sum(quarantine.counts().values()) == 1
  assert quarantine.write(tmp_path / "bad.jsonl") == 1
  row = json.loads((tmp_path / "bad.jsonl").read_text())
  assert row["where"].endswith("rows.jsonl:2") and row["row"] == "not json"


def test_an_empty_quarantine_writes_nothing(tmp_path):
  assert jsonl.Quarantine().write(tmp_path / "bad.jsonl") == 0
  assert not (tmp_path / "bad.jsonl").exists()
