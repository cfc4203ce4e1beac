# SPDX-License-Identifier: Apache-2.0
"""Rows are read when they are indexed; bad ones are left out in a job."""

from __future__ import annotations

import gzip
import json

import pytest

from rlaif_jax.core import jsonl
from rlaif_jax.core import record_files
from rlaif_jax.core import records


def example(i):
  return records.Example(id=str(i), context="c", response="r")


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_records_on_demand(tmp_path, name):
  rows = [example(i) for i in range(4)]
  jsonl.write_records(tmp_path / "rows.jsonl", rows)
  lines = (tmp_path / "rows.jsonl").read_bytes().splitlines()
  text = b"\n".join([*lines[:2], b"", *lines[2:], b"[]"])
  opener = gzip.open if name.endswith("gz") else open
  with opener(tmp_path / name, "wb") as f:
    f.write(text)
  found = record_files.RecordsOnDemand(records.Example, tmp_path / name)
  assert len(found) == 5
  assert [found[i] for i in (3, 0, 2)] == [rows[i] for i in (3, 0, 2)]
  assert list(found[1:4]) == rows[1:4] and found[1:][0] == rows[1]
  with pytest.raises(ValueError, match=rf"{name}:6: .* Fix or delete"):
    found[4]


@pytest.mark.parametrize(
  "line, reason",
  [
    (b'{"id": "b", "context": "\\ud800", "response": "r"}', "not Unicode"),
    (b'{"id": "b", "context": "c", "response": "\xed\xa0\x80"}', "not Unicode"),
    (b'{"id": "b", "context": ["c"], "response": "r"}', "must be a text"),
    (b'{"id": "b", "context": null, "response": "r"}', "must be a text"),
    (b'{"id": NaN, "context": "c", "response": "r"}', "NaN is no JSON"),
    (b"[" * 100_000, "nested too deeply"),
    (b'["id"]', "expected an object"),
    (b'"' + b"x" * 200 + b'"', "more than 150 bytes"),
  ],
)
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
@pytest.mark.parametrize("on_demand", [True, False])
def test_a_bad_row_is_left_out_in_a_job(
  tmp_path, monkeypatch, line, reason, name, on_demand
):
  monkeypatch.setattr(jsonl, "MAX_LINE", 200_000 if line[1:2] == b"[" else 150)
  path = tmp_path / name
  good = json.dumps(records.to_row(example("a"))).encode()
  data = b"\n".join([good, line, good]) + b"\n"
  path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
  with jsonl.quarantining_input() as bad:
    for _ in "ab":  # Read twice, counted once.
      rows = record_files.open_records(
        records.Example, path, on_demand=on_demand, quarantine=jsonl.of_run()
      )
      assert list(rows) == [example("a")] * 2
  found = bad.describe(tmp_path / "bad.jsonl")
  assert found["quarantined_input"] == 1
  (text,) = found["quarantined_input_reasons"]
  assert reason in text and name not in text
  row = json.loads((tmp_path / "bad.jsonl").read_text())
  assert row["where"] == f"{path}:2" and len(row["row"]) <= 10_000
  # Outside of a job it is an error.
  assert jsonl.of_run() is None
  with pytest.raises(ValueError, match=f"{name}:2: "):
    jsonl.read_records(records.Example, path, jsonl.of_run())
