# SPDX-License-Identifier: Apache-2.0
"""cells.jsonl and subsets.jsonl of the job `eval_judge` -> one page.

The best prompt is selected on one part of the pairs and reported on the other,
so that the reported agreement has no selection bias.
"""

from __future__ import annotations

import os
from typing import Sequence

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.evaluation import figures
from rlaif_jax.evaluation import pages

TITLE = "Agreement of labelers with humans"


def best(rows: Sequence[records.Row]) -> list[records.Row]:
  """Returns the cell of highest agreement for each labeler and task.

  Agreement is that on the pairs for selection. Cells without answers are left
  out; without pairs for selection there is no best cell.
  """
  found: dict[tuple[str, str], records.Row] = {}
  for row in rows:
    if row["selection"] is None or row["alignment"] is None:
      continue
    key = (row["labeler"], row["task"])
    if key not in found or selected(row) > selected(found[key]):
      found[key] = row
  return list(found.values())


def selected(row: records.Row) -> float:
  """Returns the agreement by which a cell is selected."""
  return row["selection"]["accuracy"]["value"]


def values(
  rows: Sequence[records.Row], subsets: Sequence[records.Row] = ()
) -> records.Row:
  """Returns the values of the template's macro `judges`."""
  found = best(rows)
  return {
    "rows": rows,
    "subsets": subsets,
    "best": found,
    "kinds": sorted({kind for row in found for kind in row["kinds"]}),
    "figures": {
      "by_labeler": figures.alignment_by_labeler(found),
      "reliability": figures.reliability(found),
      "grid": figures.alignment_grid(rows),
    },
  }


def render(
  rows: Sequence[records.Row], subsets: Sequence[records.Row] = ()
) -> str:
  """Returns the whole page.

  Args:
    rows: rows of cells.jsonl.
    subsets: rows of subsets.jsonl.
  """
  return pages.render("judges.html", title=TITLE, **values(rows, subsets))


def write_report(
  rows: Sequence[records.Row],
  path: str | os.PathLike,
  subsets: Sequence[records.Row] = (),
) -> None:
  """Writes the page; it needs no network and no other file."""
  jsonl.write_text(path, render(rows, subsets))
