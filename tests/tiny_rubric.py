# SPDX-License-Identifier: Apache-2.0
"""A rubric judge whose prompt fits the models of the tiny world."""

from __future__ import annotations

import pathlib

from rlaif_jax.core import jsonl
from rlaif_jax.labeling import rubric_judge
from rlaif_jax.labeling import rubrics

TEMPLATE = """
name = "short"
kind = "rubric"
preamble = "read\\n"
sample = "{context}\\n-\\n{response}\\n-\\n{criterion}\\n"
ending = "A=\\n"
options = ["y", "n"]
"""
CRITERIA = (
  rubrics.Criterion(text="a cat?", weight=2.0),
  rubrics.Criterion(text="ten dogs?", weight=-1.0),
)
DEFAULT = rubrics.Rubric(criteria=CRITERIA)


def write(
  directory: pathlib.Path, *rows: rubrics.Rubric
) -> rubric_judge.RubricJudgeConfig:
  """Writes template and rubrics; returns the judge."""
  jsonl.write_records(directory / "rubrics.jsonl", rows or [DEFAULT])
  (directory / "short.toml").write_text(TEMPLATE)
  return rubric_judge.RubricJudgeConfig(
    rubrics_file=str(directory / "rubrics.jsonl"),
    question_template=str(directory / "short.toml"),
    max_context_tokens=150,
  )
