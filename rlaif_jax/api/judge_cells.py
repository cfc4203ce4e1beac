# SPDX-License-Identifier: Apache-2.0
"""Labels a benchmark with the judges of a grid, and measures each of them."""

from __future__ import annotations

import collections
import dataclasses
import pathlib
import time
from typing import Callable, Sequence

from rlaif_jax.api import labelers
from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.data import benchmarks
from rlaif_jax.evaluation import benchmark_scores
from rlaif_jax.evaluation import judge_alignment
from rlaif_jax.evaluation import judge_report
from rlaif_jax.labeling import judge_grid
from rlaif_jax.labeling import judges


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
  """The labels of a judge, and what they cost.

  Fields:
    labels: labels of the answered pairs.
    costs: speed and cost, for the row of the judge.
    subset_costs: cost of each subset in US dollars.
  """

  labels: list[records.Preference]
  costs: records.Row
  subset_costs: dict[str, float]

  def measure(
    self, benchmark: benchmarks.Benchmark, select_share: float
  ) -> tuple[records.Row, list[records.Row]]:
    """Returns the row of the judge, and a row for each subset."""
    subsets, sections = benchmark_scores.measure(
      self.labels, benchmark.format, benchmark.items, self.subset_costs
    )
    found = judge_alignment.measure(self.labels, benchmark.pairs, select_share)
    return {**self.costs, **found, **sections}, subsets


# Labels pairs with the judge of a name.
LabelFn = Callable[[str, judges.Judge, Sequence[records.Preference]], Cell]


def label_grid(
  grid: judge_grid.JudgeGridConfig,
  task: str,
  benchmark: benchmarks.Benchmark,
  label: LabelFn,
) -> dict[str, Cell]:
  """Returns the labels of each judge by name.

  With `JudgeGridConfig.only_best_on_rest`, judges but the best one label the
  pairs for selection only.

  Args:
    grid: the judges.
    task: name for the templates.
    benchmark: pairs with human labels.
    label: labels pairs; see `label_pairs`.
  """
  judge_of, pairs = dict(grid.judges(task)), benchmark.pairs
  if not grid.only_best_on_rest:
    return {cell: label(cell, judge_of[cell], pairs) for cell in judge_of}
  selection, _ = judge_alignment.split_pairs(pairs, grid.select_share)
  cells = {cell: label(cell, judge_of[cell], selection) for cell in judge_of}
  rows = {
    cell: judge_alignment.measure(found.labels, pairs, grid.select_share)
    for cell, found in cells.items()
  }
  answered = [cell for cell in rows if rows[cell]["selection"]]
  if answered:
    best = max(answered, key=lambda cell: judge_report.selected(rows[cell]))
    cells[best] = label(best, judge_of[best], pairs)
  return cells


def label_pairs(
  name: str,
  judge: judges.Judge,
  humans: Sequence[records.Preference],
  *,
  prefix: str,
  labeler: labelers.Labeler,
  store: labelers.StoreConfig,
  quarantine: jsonl.Quarantine,
) -> Cell:
  """Labels the pairs of human labels that the store does not have.

  Args:
    name: name of the judge.
    judge: its settings.
    humans: the pairs.
    prefix: begins the name of the judge in seconds.jsonl.
    labeler: the labeler.
    store: the store; `store_dir` is set.
    quarantine: receives pairs without a valid judgment.
  """
  begin = time.monotonic()
  pairs = [records.pair_of_row(records.to_row(human)) for human in humans]
  stored = labelers.label_pairs(
    lambda: iter(pairs),
    labeler,
    judge,
    store,
    store_dir=store.store_dir,
    quarantine=quarantine,
  )
  labels = list(stored.labels(pairs))
  seconds = judge_alignment.seconds_per_label(
    pathlib.Path(store.store_dir).with_name("seconds.jsonl"),
    f"{prefix}/{name}",
    time.monotonic() - begin,
    stored.requested,
  )
  stored.close()
  cost = labeler.prices.cost_usd(stored.usage)
  return Cell(
    labels=labels,
    costs={
      "seconds_per_label": seconds,
      "cost_usd": cost,
      "usage": records.to_row(stored.usage),
    },
    subset_costs=_subset_costs(pairs, judge, labeler, cost),
  )


def _subset_costs(
  pairs: Sequence[records.Pair],
  judge: judges.Judge,
  labeler: labelers.Labeler,
  cost: float,
) -> dict[str, float]:
  """Divides a cost among subsets by the expected cost of their pairs."""
  expected: dict[str, float] = collections.defaultdict(float)
  for pair in pairs if cost else ():
    usage, _ = judges.expected_usage(pair, judge, labeler.tokenizer)
    expected[pair.source] += labeler.prices.cost_usd(usage)
  total = sum(expected.values())
  return {name: cost * part / total for name, part in expected.items() if total}
