# SPDX-License-Identifier: Apache-2.0
"""Figures are SVG text, the same for the same numbers."""

from __future__ import annotations

from rlaif_jax.evaluation import figures


def test_no_numbers_give_no_figure():
  assert figures.training({}) == ""
  assert figures.lengths({}) == ""
  assert figures.reward_against_kl({}) == ""
  assert figures.accuracy_against_labels({}) == ""


def test_a_figure_is_svg_and_repeatable():
  first = figures.lengths({"policy A": [1.0, 2.0, 9.0]})
  assert first.startswith("<svg") and first.rstrip().endswith("</svg>")
  assert first == figures.lengths({"policy A": [1.0, 2.0, 9.0]})
  assert first != figures.lengths({"policy A": [1.0, 2.0, 19.0]})


def test_smoothing_keeps_constants_and_length():
  assert figures.smooth([2.0] * 12) == [2.0] * 12
  assert figures.smooth([0.0, 3.0, 6.0], window=3) == [1.5, 3.0, 4.5]


def test_only_quantities_that_arms_have_get_a_panel():
  points = [(0.0, 0.0, 0.1), (1.0, 2.0, 0.1)]
  both = figures.against_kl(
    {"a": {"gold": points, "tokens": points}, "b": {"gold": points}}
  )
  one = figures.against_kl({"a": {"gold": points, "tokens": []}})
  assert "tokens" in both and "tokens" not in one
  assert figures.against_kl({"a": {}}) == ""


def test_growth_has_a_panel_for_each_axis():
  def row(work, axis, value):
    times = {"us_per_token": 3.0 * value, "roofline_us_per_token": 1.0}
    return {"work": work, "axis": axis, "value": value, **times}

  rows = [row("update", "rows", n) for n in (1, 2)]
  one = figures.growth(rows)
  both = figures.growth([*rows, row("sampling", "layers", 4)])
  assert both.count('id="axes_') == 2 > one.count('id="axes_')
  assert one != figures.growth([*rows, row("sampling", "rows", 4)])
  assert figures.growth([]) == ""
