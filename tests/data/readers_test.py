# SPDX-License-Identifier: Apache-2.0
"""Tests of rlaif_jax.data.readers."""

from __future__ import annotations

import gzip
import json
import sys

import numpy as np
import pytest

from rlaif_jax.core import inputs
from rlaif_jax.core import jsonl
from rlaif_jax.data import readers

ROWS = [{"a": 1, "b": {"c": ["x", "\u00fc"]}}, {"a": 2, "b": {"c": []}}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def read(path):
  quarantine = jsonl.Quarantine()
  return list(readers.read_file(path, quarantine)), quarantine.rows


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz", "x.json"])
def test_lines(tmp_path, name):
  path = tmp_path / name
  opener = gzip.open if name.endswith(".gz") else open
  with opener(path, "wt", encoding="utf-8") as f:
    f.write(LINES)
  rows, bad = read(path)
  assert rows == [(f"{path}:1", ROWS[0]), (f"{path}:2", ROWS[1])]
  assert not bad


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "pyarrow", None)
  with pytest.raises(ValueError, match=r"x.parquet: .* install 'rlaif_jax\["):
    read(tmp_path / "x.parquet")


def test_parquet(tmp_path):
  pyarrow = pytest.importorskip("pyarrow")
  from pyarrow import parquet

  path = tmp_path / "x.parquet"
  parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
  assert read(path)[0] == [(f"{path}:1", ROWS[0]), (f"{path}:2", ROWS[1])]


def test_bad_lines_are_named_and_the_rest_is_read(tmp_path):
  path = tmp_path / "x.jsonl"
  path.write_text('{"a": 1}\n\n{"a": \n{"a": 3}\n', encoding="utf-8")
  rows, bad = read(path)
  assert [row["a"] for _, row in rows] == [1, 3]
  assert [b["where"] for b in bad] == [f"{path}:3"]
  assert bad[0]["row"] == '{"a": ' and "no JSON" in bad[0]["reason"]
  path.write_bytes(b'{"a": "\xff"}\n{"a": 3}\n')
  rows, bad = read(path)
  assert [row["a"] for _, row in rows] == [3]
  assert bad[0]["row"] == '{"a": "\\xff"}' and "utf-8" in bad[0]["reason"]


@pytest.mark.parametrize(
  "name, data",
  [
    ("x.jsonl.gz", gzip.compress(LINES.encode() * 99)[:-20]),
    ("x.jsonl.gz", b"no gzip"),
  ],
  ids=["cut short", "not compressed"],
)
def test_broken_files_are_an_error(tmp_path, name, data):
  path = tmp_path / name
  path.write_bytes(data)
  with pytest.raises(
    ValueError, match=r"x.jsonl.gz:\d+: the file is truncated"
  ):
    read(path)


def test_files_of_the_first_stem_that_has_some(tmp_path):
  for name in (
    "helpful-base/train.jsonl.gz",
    "harmless-base/train.jsonl.gz",
    "harmless-base/test.jsonl.gz",
    "harmless-base/train.txt",
  ):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"")

  def names(*stems):
    found = readers.find_files(tmp_path, stems)
    return [path.relative_to(tmp_path).as_posix() for path in found]

  assert names("harmless-base/train", "train") == [
    "harmless-base/train.jsonl.gz"
  ]
  # A bare name must not reach into the folder of another data set.
  assert names("train") == []
  (tmp_path / "train-00001.parquet").write_bytes(b"")
  (tmp_path / "train-00000.parquet").write_bytes(b"")
  assert names("train") == ["train-00000.parquet", "train-00001.parquet"]


@pytest.mark.parametrize("directory", ["", "nowhere"])
def test_a_missing_directory_names_the_expected_files(tmp_path, directory):
  place = str(tmp_path / directory) if directory else ""
  with pytest.raises(ValueError) as error:
    readers.require_directory(place, ("train", "data/train"), what="my set")
  for part in ("my set", "train*.jsonl", "data/train*", "source_dir", "tfds:"):
    assert part in str(error.value)


def test_missing_files_name_the_prefixes(tmp_path):
  with pytest.raises(ValueError, match=r"my set.*none of.*test\*\.jsonl"):
    readers.require_files(tmp_path, ("test",), what="my set")


def test_tfds_values_become_plain():
  row = {
    "text": b"caf\xc3\xa9",
    "choice": np.int32(1),
    "summaries": {"text": np.array([b"a", b"b"], object)},
  }
  assert readers.decoded(row) == {
    "text": "caf\u00e9",
    "choice": 1,
    "summaries": {"text": ["a", "b"]},
  }


def test_the_files_that_are_read_are_noted(tmp_path):
  pyarrow = pytest.importorskip("pyarrow")
  from pyarrow import parquet

  parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "x.parquet")
  (tmp_path / "x.jsonl").write_text(LINES)
  noted = []
  with inputs.recording(noted.append):
    read(tmp_path / "x.parquet")
    read(tmp_path / "x.jsonl")
  assert noted == [tmp_path / "x.parquet", tmp_path / "x.jsonl"]


def test_a_row_of_parquet_that_is_not_unicode_is_quarantined(tmp_path):
  pyarrow = pytest.importorskip("pyarrow")
  from pyarrow import parquet

  offsets = pyarrow.py_buffer(np.asarray([0, 1, 3, 4], np.int32).tobytes())
  data = pyarrow.py_buffer(b"a\xff\xfeb")
  column = pyarrow.Array.from_buffers(pyarrow.utf8(), 3, [None, offsets, data])
  path = tmp_path / "x.parquet"
  parquet.write_table(pyarrow.table({"t": column}), path)
  rows, bad = read(path)
  assert rows == [(f"{path}:1", {"t": "a"}), (f"{path}:3", {"t": "b"})]
  assert [row["where"] for row in bad] == [f"{path}:2"]
  path.write_bytes(path.read_bytes()[:-9])
  with pytest.raises(ValueError, match="x.parquet: "):
    read(path)
