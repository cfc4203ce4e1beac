# SPDX-License-Identifier: Apache-2.0
"""The cells of an alignment grid -> one self-contained page.

A pure function of the rows that `jobs.eval_judge` writes. The best way of
asking is chosen on one part of the pairs and reported on the other, so that
the best of many is not best by luck.
"""

from __future__ import annotations

import os
from typing import Any, Mapping, Sequence

from rlaif_jax.core import jsonl
from rlaif_jax.evaluation import figures
from rlaif_jax.evaluation import pages

Row = Mapping[str, Any]

TITLE = "How labelers agree with people"


def best(rows: Sequence[Row]) -> list[Row]:
  """For each labeler and task the cell with the highest chosen-on agreement.

  Cells that answered nothing are out; without a part for choosing there is no
  best, since the choice would be made on what is reported.
  """
  found: dict[tuple[str, str], Row] = {}
  for row in rows:
    if row["selection"] is None or row["alignment"] is None:
      continue
    key = (row["labeler"], row["task"])
    if key not in found or selected(row) > selected(found[key]):
      found[key] = row
  return list(found.values())


def selected(row: Row) -> float:
  """The agreement that a cell is chosen by."""
  return row["selection"]["accuracy"]["value"]


def _cells(rows: Sequence[Row]) -> str:
  head = (
    "Labeler",
    "Task",
    "Way of asking",
    "Agrees with people",
    "on the pairs for choosing",
    "Longer wins",
    "More copied wins",
    "Entropy <small>nats</small>",
    "Calibration error",
    "Longer preferred, judge less people",
    "Same position in both orders",
    "of these: first",
    "p",
    "Seconds a label",
    "US dollars",
    "Unanswered",
  )
  return pages.table(head, [_cell(row) for row in rows])


def _cell(row: Row) -> list[str]:
  text = [pages.escape(row[key]) for key in ("labeler", "task", "cell")]
  cells = [text[0], *(f'<td class="text">{t}</td>' for t in text[1:])]
  alignment, bias = row["alignment"], row["position_bias"]
  chosen = row["selection"]
  if alignment is None and chosen is None:
    return [*cells, "no answer", *["-"] * 12]
  # Where the best way alone was asked about the rest, the others have no more
  # than the pairs for choosing.
  shown = alignment or chosen
  seconds = row["seconds_per_label"]
  return [
    *cells,
    pages.percent(alignment["accuracy"]) if alignment else "-",
    pages.percent(chosen["accuracy"]) if chosen else "-",
    pages.percent(shown["longer_wins"]),
    pages.percent(shown["copied_wins"]),
    f"{shown['entropy']:.3f}",
    pages.number(row["calibration"]["error"]),
    pages.percent(row["length"]["difference"]),
    pages.percent(bias["same_position"]),
    pages.percent(bias["first_side"]),
    f"{bias['p_value']:.2g}" if bias["same_position"]["n"] else "-",
    "-" if seconds is None else f"{seconds:.3g}",
    f"{row['cost_usd']:.2f}",
    str(shown["unanswered"]),
  ]


def _kinds(rows: Sequence[Row]) -> str:
  kinds = sorted({kind for row in rows for kind in row["kinds"]})
  if not kinds:
    return ""
  body = [
    [
      pages.escape(row["labeler"]),
      pages.escape(row["task"]),
      *(
        pages.percent(row["kinds"][kind]["accuracy"])
        if row["kinds"].get(kind)
        else "-"
        for kind in kinds
      ),
    ]
    for row in rows
  ]
  return pages.table(("Labeler", "Task", *map(pages.escape, kinds)), body)


def _best(rows: Sequence[Row]) -> str:
  body = [
    [
      pages.escape(row["labeler"]),
      pages.escape(row["task"]),
      f'<td class="text">{pages.escape(row["cell"])}</td>',
      pages.percent(row["alignment"]["accuracy"]),
      pages.percent(row["alignment"]["longer_wins"]),
      pages.percent(row["alignment"]["copied_wins"]),
      pages.percent(row["position_bias"]["same_position"]),
    ]
    for row in rows
  ]
  head = (
    "Labeler",
    "Task",
    "Chosen way of asking",
    "Agrees with people",
    "Longer wins",
    "More copied wins",
    "Same position in both orders",
  )
  return pages.table(head, body)


def sections(rows: Sequence[Row]) -> list[str]:
  """The grid as parts of a page."""
  if not rows:
    return [pages.section(TITLE)]
  chosen = best(rows)
  return [
    pages.note(
      "Agreement of the label (both orders averaged) with a person's, ties "
      "half, with 95 % Wilson intervals, beside two baselines that read no "
      "meaning. After the tables 2, 3 and 4 of Lee et al., arXiv 2309.00267."
    ),
    pages.section(
      "The best way of asking each labeler",
      _best(chosen) if chosen else "",
      pages.note(
        "Chosen on one part of the pairs, reported on the others. Without a "
        "part for choosing there is no best."
      ),
      pages.figure(
        figures.alignment_by_labeler(chosen),
        "Agreement of each labeler with people, asked in its best way; bars "
        "are 95 % intervals, the dotted line is a coin.",
      ),
      _kinds(chosen),
      pages.figure(
        figures.reliability(chosen),
        "Share of labels that people share, against the label's confidence, "
        "in ten bins; on the diagonal a label means what it says.",
      ),
    ),
    pages.section(
      "Every way of asking",
      pages.figure(
        figures.alignment_grid(rows),
        "Agreement with people of each labeler and way of asking.",
      ),
      _cells(rows),
      pages.note(
        "Same position: share of pairs where one position is picked in both "
        "orders. p: exact two-sided binomial test that neither side is "
        "preferred. Calibration error: expected, in ten bins of equal width "
        "(Naeini et al. 2015)."
      ),
    ),
  ]


def render(rows: Sequence[Row]) -> str:
  """The whole page as text."""
  return pages.page(TITLE, [f"<h1>{TITLE}</h1>", *sections(rows)])


def write_report(rows: Sequence[Row], path: str | os.PathLike) -> None:
  """Writes the page; it needs no network and no other file."""
  jsonl.write_text(path, render(rows))
