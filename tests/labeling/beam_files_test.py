# SPDX-License-Identifier: Apache-2.0
"""Files of pairs and of labels: what is bad, what is old, what is not there."""

from __future__ import annotations

import gzip

import pytest

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.labeling import beam_files
from rlaif_jax.labeling import beam_labels
from rlaif_jax.labeling import pairwise_judge
from rlaif_jax.text import estimates
from tests import testing

pytest.importorskip("apache_beam")

JUDGE = pairwise_judge.PairwiseJudgeConfig()


def log_prob(prompt, option):
  return -0.5 - len(prompt) % 7 / 10 - int(option == "2")


def open_worker():
  return beam_labels.Worker(
    backend=testing.ScriptedBackend(log_prob),
    tokenizer=estimates.EstimatedTokenizer(),
  )


def make_config():
  return beam_labels.PipelineConfig(
    open_labeler=open_worker,
    judge=JUDGE,
    shards=4,
    batch_size=3,
  )


def make_pairs(count):
  return [
    records.Pair(id=f"p{i:02d}", context="d" * i, first="a", second=f"b {i}")
    for i in range(count)
  ]


def test_files_to_files(tmp_path):
  pairs = make_pairs(12)
  jsonl.write_records(tmp_path / "pairs-1.jsonl", pairs[:5])
  with gzip.open(tmp_path / "pairs-2.jsonl.gz", "wb") as f:
    for pair in pairs[5:]:
      f.write(jsonl.dump_row(records.to_row(pair)).encode() + b"\n\n")
    f.write(b'{"id": "\xff"}\n')
    f.write(b'{"id": "s", "context": "\\ud800", "first": "", "second": "b"}\n')
  out = tmp_path / "out"
  out.mkdir()
  (out / "labels-00007-of-00009.jsonl").write_text("of an earlier start\n")
  counts = beam_files.label_files(
    str(tmp_path / "pairs-*"), str(out), make_config()
  )
  rows = list(beam_files.read_rows(f"{out}/labels-*.jsonl"))
  backend = open_worker().backend
  wanted, _ = pairwise_judge.judge_pairs(pairs, backend, JUDGE)
  found = [records.from_row(records.Preference, row) for row in rows]
  assert sorted(found, key=lambda row: row.id) == wanted
  assert list(beam_files.read_pairs(str(tmp_path / "pairs-*"))) == pairs
  bad = list(beam_files.read_rows(f"{out}/quarantine-*.jsonl"))
  where = sorted(row["where"].rpartition("/")[2] for row in bad)
  assert where == ["pairs-2.jsonl.gz:15", "pairs-2.jsonl.gz:16"]
  assert counts["pairs"] == counts["labelled"] == 12
  assert counts["quarantined"] == 2
  # Again, with nothing bad: no old quarantine is left.
  (tmp_path / "pairs-2.jsonl.gz").unlink()
  beam_files.label_files(str(tmp_path / "pairs-*"), str(out), make_config())
  assert not list(out.glob("quarantine-*"))
  with pytest.raises(OSError, match="nothing-"):
    beam_files.label_files(str(tmp_path / "nothing-*"), str(out), make_config())


def test_local_paths():
  assert beam_files.is_local("runs/pairs.jsonl")
  assert not beam_files.is_local("gs://bucket/pairs.jsonl")
