# SPDX-License-Identifier: Apache-2.0
"""Labels by simulated humans and by a model; instructions for a labeler."""

from __future__ import annotations

import pytest

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.evaluation import gold
from rlaif_jax.jobs import label_pairs
from rlaif_jax.labeling import judge

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
  result = label_pairs.run(
    output_dir=str(tmp_path / "out"),
    pairs_file=pairs_file,
    humans=gold.HumanConfig(temperature=0.01),
    instructions=label_pairs.InstructionConfig(
      pairwise_template="docstring_pairwise",
      rating_template="docstring_rating",
      data_dir=str(world),
      max_prompt_tokens=150,
    ),
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
      # The verdict names the place where the better text stands.
      better_first = row.context.index(GOOD, 60) < row.context.rindex("\nx\n")
      assert row.response == ("1" if better_first else "2"), name
    else:
      assert row.response == ("1" if "\nx\n" in row.context else "10")
  assert len({row.response for row in rows}) == 3


def test_a_model_labels_and_its_alignment_is_measured(
  world, tmp_path, pairs_file
):
  human = tmp_path / "human"
  label_pairs.run(
    output_dir=str(human),
    pairs_file=pairs_file,
    humans=gold.HumanConfig(temperature=0.01),
  )
  result = label_pairs.run(
    output_dir=str(tmp_path / "ai"),
    pairs_file=pairs_file,
    judge=judge.JudgeConfig(
      template="docstring_pairwise", max_context_tokens=150
    ),
    labeler_dir=str(world / "sft" / "model"),
    human_labels_file=str(human / "labels.jsonl"),
  )
  assert result["answered"] == 12
  assert result["alignment"]["accuracy"]["n"] == 12
  assert result["position_bias"]["same_position"]["n"] == 12
  assert result["usage"]["requests"] == 24


def test_exactly_one_kind_of_labeler(tmp_path, pairs_file):
  with pytest.raises(ValueError, match="either judge"):
    label_pairs.run(output_dir=str(tmp_path), pairs_file=pairs_file)
