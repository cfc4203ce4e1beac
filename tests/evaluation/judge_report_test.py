# SPDX-License-Identifier: Apache-2.0
"""The page of an alignment grid."""

from __future__ import annotations

import dataclasses

import numpy as np

from rlaif_jax.evaluation import judge_report
from rlaif_jax.evaluation import calibration
from rlaif_jax.evaluation import position
from rlaif_jax.ops import statistics


P_FIRST = np.linspace(0.0, 1.0, 40)
LONG = np.arange(40)


def share(successes, n=40):
  return dataclasses.asdict(statistics.wilson(successes, n))


def alignment(successes):
  return {
    "accuracy": share(successes),
    "longer_wins": share(20),
    "copied_wins": share(21),
    "entropy": 0.5,
    "calibration_error": 0.1,
    "unanswered": 2,
  }


def row(labeler, cell, selection, reported, task="summary"):
  return {
    "labeler": labeler,
    "task": task,
    "cell": cell,
    "selection": alignment(selection),
    "alignment": alignment(reported),
    "kinds": {"other": alignment(reported)},
    "position_bias": {
      "same_position": share(10),
      "first_side": share(9, 10),
      "p_value": 0.02,
    },
    "calibration": dataclasses.asdict(
      calibration.calibration(P_FIRST, P_FIRST > 0.4)
    ),
    "length": dataclasses.asdict(
      position.length_preference(P_FIRST, P_FIRST > 0.4, (LONG, LONG[::-1]))
    ),
    "seconds_per_label": 0.25,
    "cost_usd": 1.5,
  }


ROWS = [
  row("small", "base", 22, 39),
  row("small", "detailed", 30, 21),
  row("large", "base", 33, 35),
  row("large", "detailed", 33, 36),
]


def test_the_best_is_chosen_on_its_own_pairs():
  """Not the one that looks best where it is reported."""
  found = judge_report.best(ROWS)
  assert [(r["labeler"], r["cell"]) for r in found] == [
    ("small", "detailed"),
    ("large", "base"),  # the first of equals
  ]
  without = [{**r, "selection": None} for r in ROWS]
  assert judge_report.best(without) == []


def test_the_page_shows_every_cell_and_escapes_names():
  evil = row("<b>x</b>", "base", 20, 20, task="helpful")
  silent = {**row("mute", "base", 1, 1), "alignment": None, "selection": None}
  page = judge_report.render([*ROWS, evil, silent])
  assert "<b>x</b>" not in page and "&lt;b&gt;x&lt;/b&gt;" in page
  assert page.count("<svg") == 3 and "http://arxiv" not in page
  assert "97.5 %" in page and "no answer" in page
  assert "0.25" in page and "1.50" in page
  assert page == judge_report.render([*ROWS, evil, silent])


def subset(name, score, **changes):
  """A row of subsets.jsonl."""
  whole = row("small", "base", score, score)
  bias = {**whole["position_bias"], "consistent": share(29)}
  return {
    **{key: value for key, value in whole.items() if key != "kinds"},
    "subset": name,
    "items": 41,
    "score": share(score),
    "position_bias": bias,
  } | changes


def test_the_page_shows_sections_and_subsets():
  sections = [
    {
      "name": "Chat",
      "score": 0.625,
      "subsets": ["a-easy"],
      "missing": [],
      "is_published": True,
    },
    {
      "name": "Safety",
      "score": None,
      "subsets": ["b-safe"],
      "missing": ["donotanswer"],
      "is_published": True,
    },
    {
      "name": "<mine>",
      "score": 0.5,
      "subsets": ["<mine>"],
      "missing": [],
      "is_published": False,
    },
  ]
  rows = [{**ROWS[0], "sections": sections, "overall": None}]
  subsets = [subset("a-easy", 25), subset("b-safe", 1, alignment=None)]
  page = judge_report.render(rows, subsets)
  for text in (
    "62.5 %",
    "no score without donotanswer",
    "&lt;mine&gt;",
    "of no published section",
    "<td>41</td>",
    "72.5 %",  # the same response in both orders
    "no answer",
  ):
    assert text in page, text
  assert "overall" not in page and "<mine>" not in page
  page = judge_report.render([{**rows[0], "overall": 0.375}], subsets)
  assert "overall 37.5 %" in page
  assert "Subsets" not in judge_report.render(rows)


def test_without_rows_the_page_says_so():
  assert "measured nothing" in judge_report.render([])
