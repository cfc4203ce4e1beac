# SPDX-License-Identifier: Apache-2.0
"""The job that writes rows for a principle-conditioned reward model."""

from __future__ import annotations

import pytest

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.jobs import write_principle_data
from rlaif_jax.labeling import principle_data

FILE = '[[principles]]\ntext = "short"\nnegation = "long"\n'


def run(world, tmp_path, orders):
  rows = [
    records.Preference(
      id=str(i),
      context="the mat",
      first="a cat",
      second="ten dogs",
      p_first=0.5,
      labeler="ai",
      rationales=("short", "short"),
      p_rationales=orders,
    )
    for i in range(6)
  ]
  jsonl.write_records(tmp_path / "labels.jsonl", rows)
  (tmp_path / "p.toml").write_text(FILE)
  return write_principle_data.run(
    output_dir=str(tmp_path / "out"),
    labels_file=str(tmp_path / "labels.jsonl"),
    principles_file=str(tmp_path / "p.toml"),
    reward_init=str(world / "sft" / "model"),
    rows=principle_data.PrincipleDataConfig(passes=2, flip_probability=0.0),
  )


def test_rows_of_each_pair(world, tmp_path):
  result = run(world, tmp_path, (0.9, 0.8))
  rows = jsonl.read_records(records.Preference, result["labels"])
  assert result["pairs"] == 6 and result["rows"] == len(rows) == 12
  assert {row.p_first for row in rows} == {0.0, 1.0}
  for row in rows:
    assert ("- long" in row.first) == (row.p_first == 0.0)


def test_a_judge_that_follows_position_gives_no_rows(world, tmp_path):
  with pytest.raises(ValueError, match="both orders always disagree"):
    run(world, tmp_path, (0.9, 0.2))
