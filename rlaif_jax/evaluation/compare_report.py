# SPDX-License-Identifier: Apache-2.0
"""results.json of the job `compare` -> compare.html."""

from __future__ import annotations

import os

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.evaluation import pages


def render(results: records.Row) -> str:
  """Returns the whole page."""
  return pages.render("comparison.html", **results)


def write_report(results: records.Row, path: str | os.PathLike) -> None:
  """Writes the page; it needs no network and no other file."""
  jsonl.write_text(path, render(results))
