# SPDX-License-Identifier: Apache-2.0
"""The job that lets a labeler write rubrics, and what reads them."""

from __future__ import annotations

import pytest

from rlaif_jax.api import labelers
from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.data import datasets
from rlaif_jax.jobs import write_rubrics
from rlaif_jax.labeling import rubrics
from tests import testing
from tests import tiny_rubric


@pytest.fixture(name="labeler")
def fixture_labeler(monkeypatch):
  """A labeler that asks about the first word of a context."""

  def complete(prompt, seed):
    word = prompt.split("\n\n")[1].split()[0]
    return "" if word == "bad" else f"1. [2] Is it a {word}?"

  backend = testing.ScriptedBackend(None, complete)
  monkeypatch.setattr(
    labelers,
    "load_labeler",
    lambda config, journal_file: labelers.Labeler(
      backend=backend, tokenizer=testing.CharTokenizer()
    ),
  )
  return backend


def run(tmp_path, contexts, **settings):
  rows = [
    records.Example(id=str(i), context=context, response="")
    for i, context in enumerate(contexts)
  ]
  jsonl.write_records(tmp_path / "examples.jsonl", rows)
  return write_rubrics.run(
    **{
      "output_dir": str(tmp_path / "out"),
      "examples": datasets.ExampleSource(
        examples_file=str(tmp_path / "examples.jsonl")
      ),
      "labeler": labelers.LabelerConfig(labeler_dir="model"),
      **settings,
    }
  )


def test_one_rubric_per_context(tmp_path, labeler):
  result = run(tmp_path, ["cat one", "dog", "cat one", "bad"])
  rows = jsonl.read_records(rubrics.Rubric, result["rubrics"])
  assert [row.context for row in rows] == ["cat one", "dog"]
  assert rows[1].criteria == (
    rubrics.Criterion(text="Is it a dog?", weight=2.0),
  )
  assert (result["contexts"], result["written"], result["criteria"]) == (
    3,
    2,
    2,
  )
  assert result["quarantined"] == 1 and len(labeler.completions[0][0]) == 3


def test_a_default_is_added(tmp_path, labeler):
  tiny_rubric.write(tmp_path)
  result = run(tmp_path, ["cat"], default_file=str(tmp_path / "rubrics.jsonl"))
  found = rubrics.read(result["rubrics"])
  assert found.find("new") == tiny_rubric.DEFAULT
  assert found.find("cat").criteria[0].text == "Is it a cat?"
  tiny_rubric.write(tmp_path, found.find("cat"))
  with pytest.raises(ValueError, match="each row has a context"):
    run(tmp_path, ["cat"], default_file=str(tmp_path / "rubrics.jsonl"))


def test_a_labeler_is_needed(tmp_path):
  with pytest.raises(ValueError, match="set exactly one"):
    run(tmp_path, ["cat"], labeler=labelers.NO_LABELER)
