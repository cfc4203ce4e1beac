# SPDX-License-Identifier: Apache-2.0
"""A user's program reads the registered tasks by SeqIO alone."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.data import pipeline
from tests import tiny_world as tiny

pytest.importorskip("seqio")

ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = """
import seqio
import rlaif_jax.data.seqio_tasks as own
task = seqio.get_mixture_or_task("rlaif_tldr")
rows = list(task.get_dataset(
  {"inputs": 64, "targets": 32}, "validation", shuffle=False
).as_numpy_iterator())
decode = task.output_features["targets"].vocabulary.decode
row = rows[0]
assert row["targets"][-1] == 2, row
text = row["targets_pretokenized"].decode()
assert decode(row["targets"][:-1].tolist()) == text, row
assert b"SUBREDDIT" in row["inputs_pretokenized"]
assert task.supports_caching and task.metric_fns
assert seqio.get_mixture_or_task("rlaif_summary_examples").tasks
assert own.unigram_f1(["a b", "c"], ["a x", "c"]) == {"unigram_f1": 75.0}
print(len(rows), "rows")
"""


def test_importing_the_module_registers_the_tasks(tmp_path):
  data, source = tmp_path / "data", tmp_path / "tldr"
  (data / "tldr").mkdir(parents=True)
  source.mkdir()
  tiny.write_corpus(tmp_path / "examples.jsonl", data / "tokenizer.model")
  rows = [
    records.Example(
      id=str(i), context=f"SUBREDDIT: r/cats\nthe cat {i}", response="a cat sat"
    )
    for i in range(3)
  ]
  for split in pipeline.TASKS["tldr"].splits:
    jsonl.write_records(data / "tldr" / f"{split}.jsonl", rows)
  (data / "tldr" / "manifest.json").write_text("{}")
  done = subprocess.run(
    [sys.executable, "-c", PROGRAM],
    cwd=tmp_path,
    env={
      **os.environ,
      "PYTHONPATH": str(ROOT),
      "RLAIF_DATA_DIR": str(data),
      "TF_CPP_MIN_LOG_LEVEL": "3",
    },
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  assert done.stdout.strip() == "3 rows"
