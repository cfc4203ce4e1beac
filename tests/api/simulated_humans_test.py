# SPDX-License-Identifier: Apache-2.0
"""Instructions for a labeler, from the labels of simulated humans."""

from __future__ import annotations


import numpy as np

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.evaluation import gold
from rlaif_jax.api import simulated_humans
from rlaif_jax.labeling import pair_source
from tests import tiny_world as tiny


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
      good = row.context.index(tiny.GOOD, 60)
      better_first = good < row.context.rindex("\nx\n")
      assert row.response == ("1" if better_first else "2"), name
    else:
      assert row.response == ("1" if "\nx\n" in row.context else "10")
  assert len({row.response for row in rows}) == 3


def test_humans_follow_the_gold_that_is_given(world, tmp_path, pairs_file):
  """The gold of short texts turns all labels and grades round."""

  def shortness(documents, responses):
    del documents
    lengths = np.asarray([len(text) for text in responses], float)
    return gold.GoldScores(total=1 / (1 + lengths), parts={})

  simulated_humans.label_pairs(
    pair_source.PairSource(pairs_file=pairs_file),
    gold.HumanConfig(temperature=1e-3),
    simulated_humans.InstructionConfig(
      pairwise_template="docstring_pairwise",
      rating_template="docstring_rating",
      data_dir=str(world),
      max_prompt_tokens=150,
    ),
    output_dir=str(tmp_path / "out"),
    reward=shortness,
  )
  labels = jsonl.read_records(
    records.Preference, tmp_path / "out" / "labels.jsonl"
  )
  assert [row.p_first for row in labels] == [1.0, 0.0] * 6
  rows = jsonl.read_records(
    records.Example, tmp_path / "out" / "instructions.jsonl"
  )
  for row in rows:
    if row.id.endswith("/rating"):
      assert row.response == ("10" if "\nx\n" in row.context else "1")
