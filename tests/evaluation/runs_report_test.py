# SPDX-License-Identifier: Apache-2.0
"""The page of a folder of runs; `jobs.report_runs` tests its sections."""

from __future__ import annotations

import pytest

from rlaif_jax.core import jsonl
from rlaif_jax.evaluation import runs_report
from tests.evaluation import judge_report_test


def test_an_unmeasured_labeler_has_no_row(tmp_path):
  runs = {"label": {"labels": {"job": "label", "pairs": 3}}}
  assert runs_report.values(tmp_path, runs)["labelers"] == {}
  page = runs_report.render("A & B", tmp_path, runs)
  assert "A &amp; B" in page and "AI labels" not in page


def test_toy_worlds_are_escaped(tmp_path):
  toy = {
    "name": "<b>",
    "tables": {"Policies": (["arm"], [["<i>"]])},
    "figures": [("caption", "<svg></svg>"), ("nothing", "")],
  }
  page = runs_report.render("t", tmp_path, {}, [toy])
  assert "<h2>&lt;b&gt;</h2>" in page and "&lt;i&gt;" in page
  assert page.count("<figure>") == 1


def test_subsets_of_a_grid_are_shown_if_there_are_any(tmp_path):
  runs = {"eval_judge": {"grid": {"job": "eval_judge"}}}
  (tmp_path / "grid").mkdir()
  jsonl.write_rows(tmp_path / "grid" / "cells.jsonl", judge_report_test.ROWS)
  assert "Subsets" not in runs_report.render("t", tmp_path, runs)
  jsonl.write_rows(
    tmp_path / "grid" / "subsets.jsonl", [judge_report_test.subset("mine", 25)]
  )
  page = runs_report.render("t", tmp_path, runs)
  assert "Subsets" in page and "mine" in page


def test_a_run_of_another_form_is_named(tmp_path):
  good = {"job": "label", "alignment": {}, "position_bias": {}}
  runs = {"label": {"plain": {"job": "label"}, "odd": good}}
  with pytest.raises(ValueError, match="odd/result.json: runs.html: "):
    runs_report.render("t", tmp_path, runs)
