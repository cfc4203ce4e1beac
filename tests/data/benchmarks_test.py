# SPDX-License-Identifier: Apache-2.0
"""Rows of public judge benchmarks become pairs with human labels."""

from __future__ import annotations

import datetime
import json

import pytest

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.data import benchmarks

ROW = {
  "prompt": "Name a prime.",
  "chosen": "Seven.",
  "rejected": "Nine.",
  "subset": "math",
  "id": 3,
}


def write(tmp_path, *rows, name="x.jsonl"):
  jsonl.write_rows(tmp_path / name, rows)
  return tmp_path / name


def read(tmp_path, *rows, quarantine=None, **settings):
  config = benchmarks.BenchmarkConfig(**settings)
  return benchmarks.read(write(tmp_path, *rows), config, quarantine)


def better(pair):
  """Returns the (better, worse) response of a pair."""
  texts = (pair.first, pair.second)
  return texts if pair.p_first == 1.0 else texts[::-1]


def test_the_position_depends_on_the_id_alone(tmp_path):
  rows = [{**ROW, "id": i} for i in range(200)]
  pairs = read(tmp_path, *rows).pairs
  assert 70 < sum(pair.p_first for pair in pairs) < 130
  other = [{**row, "chosen": "Eleven."} for row in rows]
  again = read(tmp_path, *other[::-1]).pairs
  assert [p.p_first for p in again[::-1]] == [p.p_first for p in pairs]


def test_preferences_of_this_library_stay_as_they_are(tmp_path):
  human = records.Preference(
    id="p", context="c", first="a", second="b", p_first=0.3, labeler="human"
  )
  found = read(tmp_path, records.to_row(human))
  assert found.format == "preferences" and found.pairs == [human]
  other = {**records.to_row(human), "p_first": 1.0}  # of another person
  found = read(tmp_path, records.to_row(human), other)
  assert [pair.p_first for pair in found.pairs] == [0.3, 1.0]


def test_columns_are_named(tmp_path):
  row = {"q": "Name a prime.", "good": "Seven.", "bad": "Nine.", "kind": "x"}
  names = dict(prompt="q", chosen="good", rejected="bad", subset="kind", id="")
  (pair,) = read(tmp_path, row, format="columns", **names).pairs
  assert better(pair) == ("Seven.", "Nine.") and pair.source == "x"
  (pair,) = read(
    tmp_path, row, format="columns", **{**names, "subset": ""}
  ).pairs
  assert pair.source == ""
  with pytest.raises(ValueError, match=r"x.jsonl:1: missing \['knid'\]"):
    read(tmp_path, row, format="columns", **{**names, "subset": "knid"})


def test_parquet_and_gzip_give_the_same_pairs(tmp_path):
  pyarrow = pytest.importorskip("pyarrow")
  from pyarrow import parquet
  import gzip

  path = write(tmp_path, ROW, {**ROW, "id": 4})
  plain = benchmarks.read(path, benchmarks.AUTO)
  with gzip.open(tmp_path / "x.jsonl.gz", "wb") as f:
    f.write(path.read_bytes())
  rows = [json.loads(line) for line in path.open()]
  parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "x.parquet")
  for name in ("x.jsonl.gz", "x.parquet"):
    assert benchmarks.read(tmp_path / name, benchmarks.AUTO) == plain


def test_a_bad_parquet_row_is_kept_whatever_it_holds(tmp_path):
  pyarrow = pytest.importorskip("pyarrow")
  from pyarrow import parquet

  rows = [
    {**ROW, "blob": b"\xff\x00", "day": datetime.date(2020, 1, 2)},
    {**ROW, "prompt": None, "blob": b"\xfe", "day": datetime.date(2020, 1, 3)},
  ]
  parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "x.parquet")
  quarantine = jsonl.Quarantine()
  assert benchmarks.read(tmp_path / "x.parquet", benchmarks.AUTO, quarantine)
  assert quarantine.write(tmp_path / "bad.jsonl") == 1
  assert "2020-01-03" in (tmp_path / "bad.jsonl").read_text()


@pytest.mark.parametrize(
  "change, reason",
  [
    ({"chosen": None}, r"missing \['chosen'\]; the row has"),
    ({"chosen": True}, "chosen is True; it must be text or a list of"),
    ({"prompt": " "}, "the prompt is empty"),
    ({"rejected": "Seven."}, "'Seven.' is both chosen and rejected"),
    ({"prompt": [{"role": "user"}]}, "prompt is None"),
    ({"prompt": [{"role": "bot"}]}, "prompt has the message .* a role of"),
    ({"chosen": []}, "chosen does not end with a message"),
    ({"id": 3}, "the id 'math/3' occurs twice"),
  ],
)
def test_a_bad_row_is_named_or_put_into_quarantine(tmp_path, change, reason):
  rows = ROW, {**ROW, "id": 4} | change
  with pytest.raises(ValueError, match=f"x.jsonl:2: .*{reason}.* Fix or"):
    read(tmp_path, *rows)
  quarantine = jsonl.Quarantine()
  found = read(tmp_path, *rows, quarantine=quarantine)
  assert [item.id for item in found.items] == ["3"]
  (bad,) = quarantine.rows
  assert bad["where"].endswith("x.jsonl:2") and bad["row"] == rows[1]
  with pytest.raises(ValueError, match="x.jsonl:2"):
    read(tmp_path, *rows)


def test_a_file_without_any_valid_row_is_an_error(tmp_path):
  quarantine = jsonl.Quarantine()
  with pytest.raises(ValueError, match="x.jsonl:1: the prompt is empty"):
    read(tmp_path, {**ROW, "prompt": ""}, quarantine=quarantine)
  with pytest.raises(ValueError, match="has no rows"):
    read(tmp_path, quarantine=quarantine)
  for text, reason in (
    ("[1]\nnothing", "expected an object, found"),
    ("nothing\n[1]", "it is no JSON"),
  ):
    (tmp_path / "x.jsonl").write_text(text)
    with pytest.raises(ValueError, match=f"x.jsonl:1: {reason}"):
      benchmarks.read(tmp_path / "x.jsonl", benchmarks.AUTO)


def test_the_first_row_that_is_whole_tells_the_format(tmp_path):
  quarantine = jsonl.Quarantine()
  torn = {"prompt": "Name a prime.", "chosen": "Seven."}
  found = read(tmp_path, torn, ROW, torn, quarantine=quarantine)
  assert found.format == "reward_bench" and len(found.items) == 1
  first, last = [row["reason"] for row in quarantine.rows]
  assert "are of no known benchmark" in first
  assert last == "missing ['rejected']; the row has ['chosen', 'prompt']"


def test_a_format_can_be_forced(tmp_path):
  with pytest.raises(ValueError, match=r"missing \['question', 'response_A'"):
    read(tmp_path, ROW, format="judge_bench")
  with pytest.raises(ValueError, match="format is 'rewardbench'; use one of"):
    benchmarks.BenchmarkConfig(format="rewardbench")


def test_a_sample_has_all_subsets_and_grows(tmp_path):
  rows = [{**ROW, "id": i, "subset": "ab"[i // 50]} for i in range(100)]
  few, more, whole = (
    read(tmp_path, *rows, sample=n).pairs for n in (20, 40, 0)
  )
  assert (len(few), len(more), len(whole)) == (20, 40, 100)
  assert [pair for pair in more if pair in few] == few
  assert 4 < sum(pair.source == "a" for pair in few) < 16
  again = read(tmp_path, *rows[::-1], sample=20).pairs
  assert again[::-1] == few


def test_subsets_are_selected_by_name(tmp_path):
  rows = [ROW, {**ROW, "subset": "chat"}, {**ROW, "subset": "code"}]
  found = read(tmp_path, *rows, subsets=("chat", "math"))
  assert [item.subset for item in found.items] == ["math", "chat"]
  assert found.first(1).pairs == found.pairs[:1]
  assert found.first(0) == found
  with pytest.raises(
    ValueError, match="'maths', .* has no such subset; .* mean 'math'?"
  ):
    read(tmp_path, *rows, subsets=("maths",))
