# SPDX-License-Identifier: Apache-2.0
"""One page and Markdown tables of all rigs in a folder, finished or not."""

from __future__ import annotations

import pathlib
from typing import Any

from rlaif_jax.core import job_spec
from rlaif_jax.core import jsonl
from rlaif_jax.evaluation import pages
from rlaif_jax.experiments import toy_report

_INTRODUCTION = (
  "A tiny world whose true reward (gold) is known, so that what a learned "
  "reward (proxy) hides can be seen. Gold is 0 for the first policy, and 1 is "
  "its standard deviation. Means over seeds, &plusmn; a standard error; arms "
  "of a seed share its world, labels and samples, and differences are within "
  "seeds. What follows from it stands in docs/results.md."
)

JOB = job_spec.JobSpec(always_rerun=True)


def run(
  *,
  output_dir: str,
  runs_dir: str,
  title: str = "The rig",
) -> dict[str, Any]:
  """Writes report.html and tables.md.

  Args:
    output_dir: where they go.
    runs_dir: folder of the rigs' folders.
    title: of the page.
  """
  found = sorted(pathlib.Path(runs_dir).glob("*/rows.jsonl"))
  if not found:
    raise ValueError(
      f"rig_report: no folder in {runs_dir} holds a rows.jsonl; name the "
      "folder that holds the output_dirs of --job=toy_world"
    )
  body, text = [f"<h1>{pages.escape(title)}</h1>"], ""
  body.append(pages.note(_INTRODUCTION))
  for path in found:
    rows = jsonl.parse_rows(path, dict)
    costs = path.with_name("costs.jsonl")
    costs = jsonl.parse_rows(costs, dict) if costs.exists() else []
    name = path.parent.name
    body.append(toy_report.sections(name, rows, costs))
    for caption, table in toy_report.tables(rows, costs).items():
      text += f"## {name}: {caption}\n\n{toy_report.markdown(table)}\n"
  directory = pathlib.Path(output_dir)
  jsonl.write_text(directory / "report.html", pages.page(title, body))
  jsonl.write_text(directory / "tables.md", text)
  return {
    "report": str((directory / "report.html").absolute()),
    "tables": str((directory / "tables.md").absolute()),
    "rigs": [path.parent.name for path in found],
  }
