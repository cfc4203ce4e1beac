# SPDX-License-Identifier: Apache-2.0
"""Tests of rlaif_jax.data.pipeline, on files in the published schemas."""

from __future__ import annotations

import gzip
import json
import multiprocessing
import os
import pathlib
import subprocess
import sys

import pytest

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.data import docstrings
from rlaif_jax.data import pipeline
from rlaif_jax.data import preprocessors

SAMPLE = os.environ.get("RLAIF_HH_SAMPLE", "")


def turns(question: str, answer: str) -> str:
  return f"\n\nHuman: {question}\n\nAssistant: {answer}"


def hh_rows(begin: int, end: int) -> list[dict[str, str]]:
  return [
    {
      "chosen": turns(f"Question {i}?", f"kind {i}"),
      "rejected": turns(f"Question {i}?", f"rude {i}"),
    }
    for i in range(begin, end)
  ]


def comparison_row(i: int, split: str | None, confidence: int = 9):
  row = {
    "info": {"id": f"t3_{i}", "post": f"P{i}", "title": "T", "subreddit": "s"},
    "summaries": [{"text": f"a{i}", "policy": "x"}, {"text": f"b{i}"}],
    "choice": i % 2,
    "worker": "w",
    "batch": "batch3",
    "split": split,
    "extra": {"confidence": confidence},
  }
  return row if split else {k: v for k, v in row.items() if k != "split"}


def tldr_rows(begin: int, end: int):
  return [
    {
      "id": f"t3_{i}",
      "subreddit": "s",
      "title": f"T{i}",
      "post": f"A post of number {i}.",
      "summary": f"number {i}",
    }
    for i in range(begin, end)
  ]


def write(path: pathlib.Path, rows) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  opener = gzip.open if path.name.endswith(".gz") else open
  with opener(path, "wt", encoding="utf-8") as f:
    for row in rows:
      f.write((row if isinstance(row, str) else json.dumps(row)) + "\n")


@pytest.fixture
def hh(tmp_path):
  """A directory as Anthropic publishes it, with one broken row in each."""
  root = tmp_path / "hh"
  bad = {"chosen": "\n\nHuman: only", "rejected": "\n\nHuman: only"}
  for name, begin in (("harmless", 0), ("helpful", 1000)):
    folder = root / f"{name}-base"
    write(folder / "train.jsonl.gz", [*hh_rows(begin, begin + 200), bad])
    write(folder / "test.jsonl.gz", ["{", *hh_rows(begin + 200, begin + 290)])
  return root


def manifest(cache, task):
  return json.loads((pathlib.Path(cache) / task / "manifest.json").read_text())


def load(task, split, tmp_path, data_dir="", **kw):
  record = pipeline.TASKS[task].record
  function = (
    pipeline.load_examples
    if record is records.Example
    else pipeline.load_preferences
  )
  cache = str(tmp_path / "cache")
  return function(task, split, cache_dir=cache, data_dir=str(data_dir), **kw)


def test_hh(hh, tmp_path):
  parts = {
    split: load("harmless", split, tmp_path, hh)
    for split in ("train", "validation", "test", "study")
  }
  ids = {split: {row.id for row in rows} for split, rows in parts.items()}
  assert len(parts["train"]) == 200
  assert len(parts["validation"]) + len(parts["test"]) == 90
  # Two thirds and one third of the published test split.
  assert 45 <= len(parts["validation"]) <= 75
  assert ids["study"] < ids["train"] and 8 <= len(ids["study"]) <= 35
  assert not ids["train"] & (ids["validation"] | ids["test"])
  assert not ids["validation"] & ids["test"]
  # The folder of the other set is in the same directory.
  numbers = [int(row.first.split()[1]) for row in parts["train"]]
  assert max(numbers) < 1000


def test_nothing_is_dropped_silently(hh, tmp_path):
  load("harmless", "train", tmp_path, hh)
  stored = manifest(tmp_path / "cache", "harmless")
  counts = stored["counts"]
  total = counts["train"] + counts["validation"] + counts["test"]
  assert total + sum(stored["quarantined"].values()) == 292
  path = tmp_path / "cache" / "harmless" / "quarantine.jsonl.txt"
  bad = [json.loads(line) for line in path.read_text().splitlines()]
  folder = hh / "harmless-base"
  assert [b["where"] for b in bad] == [
    f"{folder / 'test.jsonl.gz'}:1",
    f"{folder / 'train.jsonl.gz'}:201",
  ]
  assert "no JSON" in bad[0]["reason"] and "Assistant" in bad[1]["reason"]


def test_a_held_out_row_is_not_trained_on(tmp_path):
  root = tmp_path / "hh"
  write(root / "train.jsonl", hh_rows(0, 20))
  write(root / "test.jsonl", hh_rows(15, 60))
  train = load("helpful", "train", tmp_path, root)
  assert len(train) == 15
  assert manifest(tmp_path / "cache", "helpful")["quarantined"] == {
    "the same content as a row of test": 5
  }


def test_a_dialogue_is_in_one_held_out_split(tmp_path):
  root = tmp_path / "hh"
  write(root / "train.jsonl", hh_rows(0, 3))
  rows = [
    {
      "chosen": turns(f"Question {100 + i % 30}?", f"kind {i}"),
      "rejected": turns(f"Question {100 + i % 30}?", f"rude {i}"),
    }
    for i in range(90)
  ]
  write(root / "test.jsonl", rows)
  contexts = [
    {row.context for row in load("helpful", split, tmp_path, root)}
    for split in ("validation", "test")
  ]
  assert contexts[0] and contexts[1] and not contexts[0] & contexts[1]


@pytest.mark.parametrize("layout", ["batches", "splits", "no names"])
def test_comparisons_go_to_the_split_that_they_name(tmp_path, layout):
  root = tmp_path / "openai"
  train = [comparison_row(i, "train", 1 + i % 9) for i in range(400)]
  held = [comparison_row(1000 + i, f"valid{1 + i % 2}") for i in range(20)]
  if layout == "batches":
    # One file holds rows of both; the row names its split.
    write(root / "comparisons" / "batch3.json", train[:200] + held[:10])
    write(root / "comparisons" / "batch4.json", held[10:] + train[200:])
  else:
    if layout == "no names":
      for row in (*train, *held):
        del row["split"]
    write(root / "train.jsonl", train)
    write(root / "validation.jsonl.gz", held)
  found = load("tldr_comparisons", "train", tmp_path, root)
  assert {r.context for r in found} == {
    preprocessors.comparison(row).context for row in train
  }
  validation = load("tldr_comparisons", "validation", tmp_path, root)
  assert len(validation) == 20
  study = load("tldr_comparisons", "study", tmp_path, root)
  # 15 % of train, and of that the four ninths with high confidence.
  assert {r.confidence for r in study} == {1, 2, 8, 9}
  assert 10 <= len(study) <= 50
  assert not manifest(tmp_path / "cache", "tldr_comparisons")["quarantined"]


def test_the_split_of_the_row_overrides_the_file(tmp_path):
  root = tmp_path / "openai"
  rows = [comparison_row(i, "valid2" if i < 4 else "train") for i in range(9)]
  write(root / "train.jsonl", rows)
  write(root / "valid.jsonl", [comparison_row(20, "valid1")])
  assert len(load("tldr_comparisons", "train", tmp_path, root)) == 5
  assert len(load("tldr_comparisons", "validation", tmp_path, root)) == 5


def test_batches_without_a_split_are_quarantined(tmp_path):
  rows = [comparison_row(i, "train") for i in range(3)]
  rows += [comparison_row(3, None), comparison_row(4, "trial")]
  write(tmp_path / "openai" / "batch3.json", rows)
  load("tldr_comparisons", "train", tmp_path, tmp_path / "openai")
  stored = manifest(tmp_path / "cache", "tldr_comparisons")["quarantined"]
  assert len(stored) == 2 and sum(stored.values()) == 2


def test_tldr_and_limits(tmp_path):
  root = tmp_path / "tldr"
  write(root / "train.jsonl", tldr_rows(0, 30))
  write(root / "valid.jsonl", tldr_rows(30, 35))
  write(root / "test.jsonl", tldr_rows(35, 40))
  rows = load("tldr", "train", tmp_path, root)
  assert len(rows) == 30
  # By hash, not by place in the file: a limit is a fair sample.
  assert [r.response for r in rows] != [f"number {i}" for i in range(30)]
  assert load("tldr", "train", tmp_path, limit=7) == rows[:7]
  assert len(load("tldr", "test", tmp_path)) == 5


def test_parquet_through_the_same_code(tmp_path):
  pyarrow = pytest.importorskip("pyarrow")
  from pyarrow import parquet

  root = tmp_path / "openai"
  root.mkdir()
  for name, begin, split in (("train", 0, "train"), ("valid", 50, "valid2")):
    rows = [comparison_row(begin + i, split) for i in range(20)]
    table = pyarrow.Table.from_pylist(rows)
    parquet.write_table(table, root / f"{name}-00000-of-00001.parquet")
  assert len(load("tldr_comparisons", "train", tmp_path, root)) == 20
  assert len(load("tldr_comparisons", "validation", tmp_path, root)) == 20


def test_missing_files_are_named(tmp_path):
  with pytest.raises(ValueError, match="does not exist.*helpful-base/test"):
    load("helpful", "train", tmp_path, tmp_path / "none")
  write(tmp_path / "tldr" / "train.jsonl", tldr_rows(0, 3))
  with pytest.raises(ValueError, match=r"split test: .*test\*\.jsonl"):
    load("tldr", "train", tmp_path, tmp_path / "tldr")
  assert not (tmp_path / "cache" / "tldr" / "manifest.json").exists()


def test_the_cache_is_read_again_for_the_same_source(hh, tmp_path):
  first = load("harmless", "train", tmp_path, hh)
  for path in hh.rglob("*.gz"):
    path.unlink()
  assert load("harmless", "train", tmp_path, hh) == first
  assert load("harmless", "train", tmp_path) == first
  with pytest.raises(ValueError, match="was built from"):
    load("harmless", "train", tmp_path, tmp_path / "other")


def test_empty_split(tmp_path):
  root = tmp_path / "tldr"
  write(root / "train.jsonl", tldr_rows(0, 3))
  write(root / "valid.jsonl", [])
  write(root / "test.jsonl", tldr_rows(3, 4))
  with pytest.raises(ValueError, match="'validation' of tldr is empty"):
    load("tldr", "validation", tmp_path, root)


def test_wrong_names(tmp_path):
  arguments = dict(cache_dir=str(tmp_path))
  with pytest.raises(ValueError, match="mean 'docstring_summary'"):
    pipeline.load_examples("docstring_sumary", "train", **arguments)
  with pytest.raises(ValueError, match="no split 'dev'"):
    pipeline.load_examples("docstring_summary", "dev", **arguments)
  with pytest.raises(ValueError, match="holds examples"):
    pipeline.load_preferences("tldr", "train", **arguments)
  with pytest.raises(ValueError, match="reads the installed packages"):
    pipeline.load_examples(
      "docstring_summary", "train", data_dir="here", **arguments
    )


def test_pairs_are_prompts_too(hh, tmp_path):
  """With the better response, at once or on demand."""
  pairs = load("helpful", "train", tmp_path, hh)
  where = dict(cache_dir=str(tmp_path / "cache"))
  rows = pipeline.load_examples("helpful", "train", **where)
  assert [row.context for row in rows] == [pair.context for pair in pairs]
  better = [p.first if p.p_first > 0.5 else p.second for p in pairs]
  assert [row.response for row in rows] == better
  assert {p.p_first for p in pairs} == {0.0, 1.0}
  lazily = pipeline.load_examples("helpful", "train", on_demand=True, **where)
  assert not isinstance(lazily, list)
  assert list(lazily) == rows and list(lazily[1:3]) == rows[1:3]


def build_in_process(cache, source):
  pipeline.load_preferences(
    "harmless", "train", cache_dir=cache, data_dir=source
  )


def test_two_processes_at_once(hh, tmp_path):
  context = multiprocessing.get_context("spawn")
  together, alone = str(tmp_path / "together"), str(tmp_path / "alone")
  jobs = [
    context.Process(target=build_in_process, args=(together, str(hh)))
    for _ in range(2)
  ]
  for job in jobs:
    job.start()
  for job in jobs:
    job.join()
    assert job.exitcode == 0
  build_in_process(alone, str(hh))
  files = sorted(p.name for p in (tmp_path / "alone/harmless").iterdir())
  assert files == sorted(
    p.name for p in (tmp_path / "together/harmless").iterdir()
  )
  for name in files:
    one, two = (tmp_path / d / "harmless" / name for d in ("alone", "together"))
    assert one.read_bytes() == two.read_bytes()


def test_a_build_cut_short_is_built_again(hh, tmp_path):
  whole = load("harmless", "train", tmp_path, hh)
  directory = tmp_path / "cache" / "harmless"
  (directory / "manifest.json").rename(directory / ".begun")
  (directory / "train.jsonl").write_text("")
  assert load("harmless", "train", tmp_path, hh) == whole


def test_docstrings_through_the_pipeline(tmp_path, monkeypatch):
  row = records.Example(id="1", context="c", response="r", source="m")
  corpus = docstrings.Corpus(
    splits={name: [row] for name in pipeline.shares.NAMES},
    manifest={"rows": "x"},
  )
  monkeypatch.setattr(docstrings, "build", lambda quarantine: corpus)
  assert load("docstring_summary", "rl", tmp_path) == [row]
  assert manifest(tmp_path / "cache", "docstring_summary")["rows"] == "x"


def test_reading_needs_neither_tensorflow_nor_jax(hh, tmp_path):
  load("harmless", "train", tmp_path, hh)
  program = (
    "import sys\nfrom rlaif_jax.data import pipeline\n"
    f"cache = {str(tmp_path / 'cache')!r}\n"
    "pipeline.load_preferences('harmless', 'train', cache_dir=cache)\n"
    "heavy = {'jax', 'tensorflow', 'seqio'} & set(sys.modules)\n"
    "sys.exit(str(heavy) if heavy else 0)"
  )
  done = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not SAMPLE, reason="RLAIF_HH_SAMPLE names no file")
def test_real_harmless_rows(tmp_path):
  """Every second row as train, the others as test: all of them real."""
  lines = [line.decode().strip() for _, line in jsonl.read_lines(SAMPLE)]
  root = tmp_path / "hh" / "harmless-base"
  write(root / "train.jsonl.gz", lines[::2])
  write(root / "test.jsonl.gz", lines[1::2])
  parts = {
    split: load("harmless", split, tmp_path, root.parent)
    for split in ("train", "validation", "test")
  }
  stored = manifest(tmp_path / "cache", "harmless")["quarantined"]
  count = sum(len(rows) for rows in parts.values())
  assert count + sum(stored.values()) == len(lines)
  assert count >= 0.98 * len(lines)
  rows = [row for part in parts.values() for row in part]
  assert 0.45 < sum(row.p_first for row in rows) / len(rows) < 0.55
  for row in rows:
    assert row.context.startswith("Human: ")
    assert row.first and row.second and row.first != row.second


def test_a_file_of_somebody_else_is_not_replaced(hh, tmp_path):
  theirs = tmp_path / "cache" / "harmless" / "test.jsonl"
  write(theirs, ["{}"])
  with pytest.raises(ValueError, match="test.jsonl exists, and harmless"):
    load("harmless", "train", tmp_path, hh)
  assert theirs.read_text() == "{}\n"
  theirs.unlink()
  assert len(load("harmless", "train", tmp_path, hh)) == 200
  assert not theirs.with_name(".begun").exists()
