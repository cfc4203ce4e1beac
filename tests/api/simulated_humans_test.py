# SPDX-License-Identifier: Apache-2.0
"""Instructions for a labeler, from the labels of simulated humans."""

from __future__ import annotations

import pytest

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.evaluation import gold
from rlaif_jax.api import simulated_humans
from rlaif_jax.labeling import pair_source

GOOD = "the cat sat on a red hat with ten dogs near it all day"


@pytest.fixture
def pairs_file(tmp_path):
  pairs = []
  for i in range(12):
    texts = (GOOD, "x") if i % 2 else ("x", GOOD)
    pairs.append(
      records.Pair(
        id=f"p{i}",
        context=f"{GOOD} and {i} mats more",
        first=texts[0],
        second=texts[1],
      )
    )
  jsonl.write_records(tmp_path / "pairs.jsonl", pairs)
  return str(tmp_path / "pairs.jsonl")


def test_humans_follow_gold_and_write_instructions(world, tmp_path, pairs_file):
  result = simulated_humans.label_pairs(
    pair_source.PairSource(pairs_file=pairs_file),
    gold.HumanConfig(temperature=0.01),
    simulated_humans.InstructionConfig(
      pairwise_template="docstring_pairwise",
      rating_template="docstring_rating",
      data_dir=str(world),
      max_prompt_tokens=150,
    ),
    output_dir=str(tmp_path / "out"),
  )
  labels = jsonl.read_records(
    records.Preference, tmp_path / "out" / "labels.jsonl"
  )
  assert [row.p_first for row in labels] == [0.0, 1.0] * 6
  assert result["instructions"] == 24
  rows = jsonl.read_records(
    records.Example, tmp_path / "out" / "instructions.jsonl"
  )
  for row in rows:
    name, kind = row.id.split("/")
    if kind == "pair":
      # The answer names the position of the better response.
      better_first = row.context.index(GOOD, 60) < row.context.rindex("\nx\n")
      assert row.response == ("1" if better_first else "2"), name
    else:
      assert row.response == ("1" if "\nx\n" in row.context else "10")
  assert len({row.response for row in rows}) == 3
