# SPDX-License-Identifier: Apache-2.0
"""The report shows what it is given, escapes it, and needs nothing else."""

from __future__ import annotations

import copy
import re

import pytest

from rlaif_jax.evaluation import report


def estimate(value, n=100, spread=0.05):
  return {
    "value": value,
    "low": value - spread,
    "high": value + spread,
    "n": n,
    "method": "test",
  }


def comparison(a, b, value, controlled):
  return {
    "a": a,
    "b": b,
    "win_rate": estimate(value),
    "ties": 0,
    "length_controlled": estimate(controlled),
    "log_length_controlled": estimate(controlled),
    "length_ratio": 1.5,
  }


PARTS = ("gold", "coverage", "faithfulness", "brevity", "no_repetition", "form")
RESULTS = {
  "title": "A <b>title</b>",
  "baseline": "SFT",
  "references": ["human"],
  "policies": {
    name: {
      **{part: estimate(0.5) for part in PARTS},
      "characters": estimate(40.0),
    }
    for name in ("SFT", "RLAIF", "human")
  },
  "comparisons": [comparison("SFT", "RLAIF", 0.3, 0.48)],
  "labelers": {},
  "rewards": {
    "ai": [{"labels": n, "accuracy": estimate(0.6)} for n in (100, 1000)]
  },
  "curves": {
    "RLAIF": {
      "validation": [
        {
          "step": s,
          "gold": estimate(0.5),
          "score": estimate(0.1 * s),
          "kl": estimate(float(s)),
        }
        for s in (0, 1, 2)
      ],
      "training": [
        {"step": s, "score": 0.1, "kl": 0.2, "tokens": 9.0} for s in (1, 2, 3)
      ],
      "selected_step": 2,
      "candidates": [{"step": 2, "score": 0.3, "preference": estimate(0.7)}],
    }
  },
  "lengths": {"SFT": [10, 20, 30], "RLAIF": [20, 30, 40]},
  "examples": [
    {
      "context": "doc <script>",
      "texts": {n: f"text of {n} <i>" for n in ("SFT", "RLAIF", "human")},
      "gold": dict.fromkeys(("SFT", "RLAIF", "human"), 0.5),
    }
  ],
  "runs": [{"run": "sft", "job": "train_sft", "seconds": 12.0}],
  "facts": {"jax": "0.0"},
}


def test_it_is_self_contained_and_escaped(tmp_path):
  path = tmp_path / "report.html"
  report.write_report(RESULTS, path)
  text = path.read_text()
  assert "&lt;script&gt;" in text and "<script" not in text
  assert "text of RLAIF &lt;i&gt;" in text
  assert "A &lt;b&gt;title" in text
  assert text.count("<svg") == 4
  for outside in ('src="', "<link", "@import", "url(http"):
    assert outside not in text


def test_the_baseline_stands_second_and_length_is_told():
  text = report.render(RESULTS)
  assert "RLAIF against SFT" in text
  assert "70.0 %<br><small>[65.0, 75.0] n=100" in text
  assert "not shown at equal length" in text


@pytest.mark.parametrize(
  "value, controlled, word",
  [
    (0.7, 0.7, "better"),
    (0.3, 0.3, "worse"),
    (0.52, 0.5, "no difference"),
  ],
)
def test_conclusions(value, controlled, word):
  text = report.conclusion(comparison("A", "B", value, controlled))
  assert word in text and "equal length" not in text


@pytest.mark.parametrize(
  "pairs, words",
  [
    ([(0.4, 0.4)], "No policy is shown to beat SFT"),
    ([(0.7, 0.5)], "No policy .* raw win rate alone: A0 .70.0 % .65.0, 75.0"),
    ([(0.7, 0.8)], "at equal length: A0 wins 80.0 % .75.0, 85.0..$"),
    ([(0.7, 0.8), (0.7, 0.5)], "A0 wins 80.0 .* alone: A1 .70.0 %"),
    ([(0.5, 0.8)], "at equal length: A0 wins"),
  ],
)
def test_the_headline_tells_the_length_story(pairs, words):
  rows = [
    comparison(f"A{i}", "SFT", raw, controlled)
    for i, (raw, controlled) in enumerate(pairs)
  ]
  # Words that are copied, and the human's, are no policies.
  rows += [comparison(name, "SFT", 0.9, 0.9) for name in ("human", "first")]
  results = {
    "baseline": "SFT",
    "comparisons": rows,
    "references": ["human", "first"],
  }
  assert re.search(words, report.headline(results))
  assert "human" not in report.headline(results)


def test_missing_sections_say_so():
  results = copy.deepcopy(RESULTS)
  results["rewards"], results["curves"] = {}, {}
  text = report.render(results)
  assert text.count("This run measured nothing here.") == 3


def test_swapping_twice_gives_back_the_comparison():
  once = report.swap(RESULTS["comparisons"][0])
  twice = report.swap(once)
  assert twice["a"] == "SFT"
  assert twice["win_rate"]["low"] == pytest.approx(0.25)
