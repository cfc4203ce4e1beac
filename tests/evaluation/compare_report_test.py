# SPDX-License-Identifier: Apache-2.0
"""The page of win rates by a judge."""

from __future__ import annotations

import dataclasses

import numpy as np

from rlaif_jax.evaluation import compare_report
from rlaif_jax.evaluation import position
from rlaif_jax.evaluation import rankings
from rlaif_jax.evaluation import win_rate


def results():
  p_orders = np.asarray([[0.9, 0.8]] * 30 + [[0.9, 0.2]] * 4 + [[0.1, 0.2]] * 6)
  lengths = (np.arange(40) + 10, np.full(40, 20))
  found = win_rate.compare_judged(("<a>", "b"), p_orders, lengths)
  order = position.order_statistics(p_orders)
  rows = [
    rankings.Ranking(id=f"i{i}", rater="<r>", order=("<a>", "b"))
    for i in range(4)
  ]
  return {
    "title": "T & T",
    "judged": {
      "judge": {"backend": "<j>"},
      "comparisons": [dataclasses.asdict(found)],
      "order": dataclasses.asdict(order),
      "usage": {"requests": 80, "input_tokens": 12345, "output_tokens": 80},
      "cost_usd": 1.25,
    },
    "ranked": {
      "comparisons": [dataclasses.asdict(c) for c in rankings.matrix(rows)],
      "concordance": dataclasses.asdict(rankings.concordance(rows)),
      "raters": ["<r>"],
    },
  }


def test_both_directions_and_the_judge_are_named():
  page = compare_report.render(results())
  assert "80.0 %" in page and "20.0 %" in page  # row against column
  assert "30 / 4 / 6" in page and "100.0 %" in page
  assert "&lt;a&gt;" in page and "<a>" not in page and "&lt;j&gt;" in page
  assert "T &amp; T" in page and "12,345" in page and "$1.25" in page
  assert "nan" not in page.replace("Unanswered", "")
  assert page == compare_report.render(results())


def test_what_was_not_measured_is_said():
  page = compare_report.render({"title": "t", "judged": None, "ranked": None})
  assert page.count("measured nothing") == 2
