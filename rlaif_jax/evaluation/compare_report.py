# SPDX-License-Identifier: Apache-2.0
"""Win rates by a judge and by people -> one self-contained page.

A pure function of what `jobs.compare_policies` writes.
"""

from __future__ import annotations

import os
from typing import Any, Mapping, Sequence

from rlaif_jax.core import jsonl
from rlaif_jax.evaluation import pages


def _mirror(estimate: Mapping[str, Any]) -> dict[str, Any]:
  """A share of B against A, from that of A against B."""
  return {
    **estimate,
    "value": 1 - estimate["value"],
    "low": 1 - estimate["high"],
    "high": 1 - estimate["low"],
  }


def _matrix(comparisons: Sequence[Mapping[str, Any]]) -> str:
  """Row against column."""
  rates = {(c["a"], c["b"]): c["win_rate"] for c in comparisons}
  rates |= {(c["b"], c["a"]): _mirror(c["win_rate"]) for c in comparisons}
  names = list(dict.fromkeys(a for a, _ in rates))
  rows = [
    [
      pages.escape(a),
      *(pages.percent(rates[a, b]) if a != b else "-" for b in names),
    ]
    for a in names
  ]
  return pages.table(("Row against column", *map(pages.escape, names)), rows)


def _length(comparison: Mapping[str, Any]) -> list[str]:
  """Win rates at equal length and the ratio of lengths, where known."""
  if comparison["length"] is None:
    return ["-", "-", "-"]
  return [
    pages.percent(comparison["length"]["ratio"]),
    pages.percent(comparison["length"]["log_ratio"]),
    pages.number(comparison["length_ratio"], 2),
  ]


_LENGTH = (
  "At equal length<br><small>ratio</small>",
  "At equal length<br><small>log ratio</small>",
  "Length ratio",
)


def _judged(judged: Mapping[str, Any]) -> str:
  rows = [
    [
      f"{pages.escape(c['a'])} against {pages.escape(c['b'])}",
      pages.percent(c["win_rate"]),
      f"{c['wins']} / {c['ties']} / {c['losses']}",
      f"{c['decided']['p_value']:.2g}",
      pages.number(c["soft_win_rate"]),
      *_length(c),
      str(c["unanswered"]),
    ]
    for c in judged["comparisons"]
  ]
  head = (
    "Policies",
    "Win rate",
    "Wins / ties / losses",
    "p",
    "Mean P(first is better)",
    *_LENGTH,
    "Unanswered",
  )
  usage, order = judged["usage"], judged["order"]
  return (
    _matrix(judged["comparisons"])
    + pages.table(head, rows)
    + pages.note(
      f"Judge: {pages.escape(judged['judge']['backend'])}. A response wins if "
      "the judge prefers it in both presentation orders, else it is a tie; "
      "ties count half. p: exact binomial test of wins against losses."
    )
    + pages.table(
      ("Preference changes with the order", "of these: first position"),
      [[pages.percent(order["flipped"]), pages.percent(order["first_side"])]],
    )
    + pages.note(
      f"{usage['requests']} requests, {usage['input_tokens']:,} tokens in, "
      f"{usage['output_tokens']:,} out, ${judged['cost_usd']:.2f}."
    )
  )


def _ranked(ranked: Mapping[str, Any]) -> str:
  rows = [
    [
      f"{pages.escape(c['a'])} against {pages.escape(c['b'])}",
      pages.percent(c["win_rate"]),
      f"{c['test']['p_value']:.2g}",
      *_length(c),
      f"{c['items']} items,<br><small>{c['ratings']} ratings</small>",
    ]
    for c in ranked["comparisons"]
  ]
  head = ("Policies", "Ranked above", "p", *_LENGTH, "Of")
  w = ranked["concordance"]["w"]
  return (
    _matrix(ranked["comparisons"])
    + pages.table(head, rows)
    + pages.note(
      f"{len(ranked['raters'])} raters; intervals by a bootstrap over items. "
      "p: exact sign test over items, each by the majority of its raters."
    )
    + pages.table(
      ("Kendall's W", "by chance", "Items with one rater"),
      [
        [
          pages.number(w),
          f"{ranked['concordance']['by_chance']:.3f}" if w["n"] else "-",
          str(ranked["concordance"]["one_rater"]),
        ]
      ],
    )
  )


def sections(results: Mapping[str, Any]) -> list[str]:
  """Win rates as parts of a page."""
  judged, ranked = results["judged"], results["ranked"]
  return [
    pages.note("Win rates with 95 % intervals and n."),
    pages.section("By a judge", _judged(judged) if judged else ""),
    pages.section("By people", _ranked(ranked) if ranked else ""),
  ]


def render(results: Mapping[str, Any]) -> str:
  """The whole page as text."""
  head = f"<h1>{pages.escape(results['title'])}</h1>"
  return pages.page(results["title"], [head, *sections(results)])


def write_report(results: Mapping[str, Any], path: str | os.PathLike) -> None:
  """Writes the page; it needs no network and no other file."""
  jsonl.write_text(path, render(results))
