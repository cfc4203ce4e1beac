# SPDX-License-Identifier: Apache-2.0
"""Bad lines are named by file and line, or set aside with the reason."""

from __future__ import annotations

import gzip
import json

import pytest

from rlaif_jax.core import inputs
from rlaif_jax.core import jsonl
from rlaif_jax.core import record_files
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


def test_two_hosts_may_write_the_same_file_at_once(tmp_path, monkeypatch):
  """Processes of containers often have the same number."""
  monkeypatch.setattr(jsonl.os, "getpid", lambda: 7)
  path = tmp_path / "rows.jsonl"

  def rows():
    yield {"row": 0}
    jsonl.write_rows(path, [{"row": 0}, {"row": 1}])  # The other host.
    yield {"row": 1}

  jsonl.write_rows(path, rows())
  assert jsonl.parse_rows(path, dict) == [{"row": 0}, {"row": 1}]
  assert [p.name for p in tmp_path.iterdir()] == ["rows.jsonl"]


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


def test_a_last_line_without_an_end_is_cut_off(tmp_path):
  path = tmp_path / "rows.jsonl"
  assert jsonl.cut_torn_line(path) == 0 and not path.exists()
  long = b'{"torn": "' + b"x" * 200_000
  for whole in (b"", b'{"a": 1}\n', b'{"a": 1}\n{"b": 2}\n'):
    for torn in (b"", b"{", long):
      path.write_bytes(whole + torn)
      assert jsonl.cut_torn_line(path) == len(torn)
      assert path.read_bytes() == whole


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_the_files_that_are_read_are_noted(tmp_path, name):
  path = tmp_path / name
  with (gzip.open if name.endswith("gz") else open)(path, "wb"):
    pass
  read = []
  with inputs.recording(read.append):
    list(jsonl.read_lines(path))
    record_files.RecordsOnDemand(records.Example, path)
  assert read == [path, path]


def test_a_truncated_gz_gives_the_rows_before(tmp_path):
  lines = [records.to_row(example(i)) for i in range(2000)]
  data = "".join(json.dumps(line) + "\n" for line in lines).encode()
  path = tmp_path / "rows.jsonl.gz"
  path.write_bytes(gzip.compress(data)[:-100])
  quarantine = jsonl.Quarantine()
  rows = jsonl.read_records(records.Example, path, quarantine)
  assert 100 < len(rows) < 2000 and rows == [
    example(i) for i in range(len(rows))
  ]
  (bad,) = quarantine.rows
  assert (
    f"rows.jsonl.gz:{len(rows) + 1}: the file is truncated" in bad["reason"]
  )
  with pytest.raises(ValueError, match="truncated or damaged"):
    jsonl.read_records(records.Example, path)


def test_a_file_without_a_valid_row_is_an_error_in_a_job(tmp_path):
  path = tmp_path / "rows.jsonl"
  path.write_text('{"a": 1}\n')
  with jsonl.quarantining_input():
    with pytest.raises(ValueError, match="no row is valid; the first: Example"):
      jsonl.read_records(records.Example, path, jsonl.of_run())


def test_no_number_in_a_file_is_not_finite():
  row = {"b": [float("nan"), 1.5, (float("inf"),)], "a": {"c": -float("inf")}}
  assert jsonl.dump_row(row) == '{"a": {"c": null}, "b": [null, 1.5, [null]]}'
