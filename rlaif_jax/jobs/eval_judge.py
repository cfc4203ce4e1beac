# SPDX-License-Identifier: Apache-2.0
"""The alignment grid: labelers x prompts x tasks against human labels.

Re-makes the paper's tables of prompts (table 2), labeler sizes (table 3) and
position bias (table 4) of Lee et al., arXiv 2309.00267, with the user's models
and the user's labels. Every cell is labelled through one store, so that a
killed audit goes on where it was and a wider one pays only for what is new.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import pathlib
import time
from typing import Any, Callable, Iterator, Mapping

import numpy as np

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.evaluation import agreement
from rlaif_jax.evaluation import audit_report
from rlaif_jax.evaluation import calibration
from rlaif_jax.evaluation import position
from rlaif_jax.api import labelers as labelers_lib
from rlaif_jax.labeling import costs
from rlaif_jax.labeling import endpoint_config
from rlaif_jax.labeling import judge as judge_lib
from rlaif_jax.labeling import likelihood


@dataclasses.dataclass(frozen=True, kw_only=True)
class GridConfig:
  """Which ways of asking are tried.

  Fields:
    templates: names of pairwise templates; "{task}" stands for the task.
    shots: numbers of exemplars.
    chain_of_thought: without, with, or both.
    exemplar_trials: one-shot trials with an exemplar drawn at random (the
      paper made ten), each with the first template.
    likelihoods: scores of `LikelihoodConfig` to try as well.
    before: text before the context, for likelihoods.
    between: text between context and response, for likelihoods.
    select_share: part of the pairs, by hash, on which the best way of asking
      is chosen; it is reported on the others.
    only_best_on_rest: the pairs that are not for choosing are asked in the
      best way alone, which costs less; the other ways stay without alignment.
    max_context_tokens: of a prompt.
    max_rationale_tokens: of a rationale.
  """

  templates: tuple[str, ...] = ("{task}_base", "{task}_detailed")
  shots: tuple[int, ...] = (0,)
  chain_of_thought: tuple[bool, ...] = (False,)
  exemplar_trials: int = 0
  likelihoods: tuple[str, ...] = ()
  before: str = ""
  between: str = "\n\nSummary:\n"
  select_share: float = 0.5
  only_best_on_rest: bool = False
  max_context_tokens: int = 4096
  max_rationale_tokens: int = 512

  def __post_init__(self):
    if not 0.0 <= self.select_share < 1.0:
      raise ValueError(
        f"select_share is {self.select_share}; it should be at least 0 and "
        "below 1"
      )
    if self.only_best_on_rest and not self.select_share:
      raise ValueError(
        "only_best_on_rest needs pairs to choose on; select_share is 0, give "
        "it a share such as 0.2"
      )
    if not self.templates and not self.likelihoods:
      raise ValueError("templates and likelihoods are empty; name one way")

  def cells(self, task: str) -> Iterator[tuple[str, labelers_lib.Judge]]:
    """(name, judge) of each way of asking, the paper's order."""
    limits = {
      "max_context_tokens": self.max_context_tokens,
      "max_rationale_tokens": self.max_rationale_tokens,
    }
    names = [template.format(task=task) for template in self.templates]
    for template in names:
      for cot in self.chain_of_thought:
        for shots in self.shots:
          config = judge_lib.JudgeConfig(
            template=template,
            num_exemplars=shots,
            chain_of_thought=cot,
            **limits,
          )
          yield f"{template}{' + CoT' if cot else ''} {shots}-shot", config
    for trial in range(self.exemplar_trials):
      config = judge_lib.JudgeConfig(
        template=names[0], num_exemplars=1, exemplar_seed=trial, **limits
      )
      yield f"{names[0]} 1-shot, exemplar {trial}", config
    for score in self.likelihoods:
      config = likelihood.LikelihoodConfig(
        score=score,
        before=self.before,
        between=self.between,
        max_context_tokens=self.max_context_tokens,
      )
      yield score, config


def run(
  *,
  output_dir: str,
  tasks: Mapping[str, str],
  labelers: Mapping[str, str],
  grid: GridConfig,
  endpoint: endpoint_config.EndpointConfig | None = None,
  tokenizer_dir: str = "",
  limit: int = 0,
  chunk_size: int = 32,
  prices: costs.Prices = costs.FREE,
  mesh: str = "data:-1",
) -> dict[str, Any]:
  """Writes cells.jsonl, audit.html and the labels of every cell.

  Args:
    output_dir: where everything goes; a second start continues there.
    tasks: name -> labels.jsonl of human preferences. The name goes into the
      templates' names; `source` of the rows groups them.
    labelers: name -> finished language model, the smallest first.
    grid: the ways of asking.
    endpoint: one more labeler, named by its model.
    tokenizer_dir: the endpoint's tokenizer; "": three characters a token.
    limit: first pairs of each task only (0: all).
    chunk_size: pairs that are stored at a time.
    prices: of the labelers' tokens.
    mesh: devices.
  """
  directory = pathlib.Path(output_dir)
  quarantine = jsonl.Quarantine()
  rows = []
  served = {} if endpoint is None else {endpoint.model: ""}
  for name, labeler_dir in {**labelers, **served}.items():
    labeler = labelers_lib.open_labeler(
      labeler_dir=labeler_dir,
      endpoint=None if labeler_dir else endpoint,
      tokenizer_dir=tokenizer_dir,
      journal_file=f"{output_dir}/answers.jsonl",
      mesh=mesh,
    )
    for task, path in tasks.items():
      humans = jsonl.read_records(records.Preference, path)
      humans = humans[:limit] if limit else humans
      fill = functools.partial(
        labelers_lib.label,
        labeler=labeler,
        store_dir=f"{output_dir}/store",
        chunk_size=chunk_size,
        prices=prices,
        quarantine=quarantine,
      )
      rows += ask_all(name, task, humans, grid, fill, directory, prices)
    del labeler
  jsonl.write_rows(directory / "cells.jsonl", rows)
  audit_report.write_report(rows, directory / "audit.html")
  return {
    "report": f"{output_dir}/audit.html",
    "cells": len(rows),
    "best": audit_report.best(rows),
    "quarantined": quarantine.write(directory / "quarantine.jsonl"),
    "quarantine_reasons": quarantine.counts(),
  }


def ask_all(
  name: str,
  task: str,
  humans: list[records.Preference],
  grid: GridConfig,
  fill: Callable[..., Any],
  directory: pathlib.Path,
  prices: costs.Prices,
) -> list[dict[str, Any]]:
  """Rows of all cells of a labeler and a task, in the grid's order.

  Each cell is asked about the pairs that the grid gives it, through
  fill(pairs, config=...) -> LabelStore.
  """
  cells = dict(grid.cells(task))

  def ask(cell, some):
    begin = time.monotonic()
    stored = fill(functools.partial(as_pairs, some), config=cells[cell])
    labels = list(stored.labels(as_pairs(some)))
    seconds = note_seconds(
      directory / "seconds.jsonl",
      f"{name}/{task}/{cell}",
      time.monotonic() - begin,
      stored.asked,
    )
    usage = stored.usage
    stored.close()
    return {
      "labeler": name,
      "task": task,
      "cell": cell,
      **measure(labels, humans, grid.select_share),
      "seconds_per_label": seconds,
      "cost_usd": prices.cost_usd(usage),
      "usage": records.to_row(usage),
    }

  if not grid.only_best_on_rest:
    return [ask(cell, humans) for cell in cells]
  chosen, _ = part(humans, grid.select_share)
  rows = {cell: ask(cell, chosen) for cell in cells}
  answered = [cell for cell in rows if rows[cell]["selection"]]
  if answered:
    best = max(answered, key=lambda cell: audit_report.selected(rows[cell]))
    rows[best] = ask(best, humans)
  return list(rows.values())


def part(
  humans: list[records.Preference], share: float
) -> tuple[list[records.Preference], list[records.Preference]]:
  """The pairs for choosing, by hash of their texts, and the others."""
  chosen, rest = [], []
  for human in humans:
    name = records.content_id(human.context, human.first, human.second)
    (chosen if int(name[:8], 16) < share * 2**32 else rest).append(human)
  return chosen, rest


def as_pairs(humans: list[records.Preference]) -> Iterator[records.Pair]:
  """The pairs that humans have labelled, without their labels."""
  for human in humans:
    yield records.Pair(
      id=human.id,
      context=human.context,
      first=human.first,
      second=human.second,
      source=human.source,
    )


def measure(
  labels: list[records.Preference],
  humans: list[records.Preference],
  select_share: float,
) -> dict[str, Any]:
  """Alignment on the pairs for choosing and on the others; bias on all."""
  chosen, rest = part(humans, select_share)
  answered = {label.id for label in labels}

  def align(some):
    # Without a single answer there is no alignment, only the count.
    if not any(human.id in answered for human in some):
      return None
    return agreement.to_row(agreement.alignment(labels, some))

  kinds = sorted({human.source for human in rest if human.source})
  return {
    "selection": align(chosen),
    "alignment": align(rest),
    "kinds": {
      kind: align([h for h in rest if h.source == kind]) for kind in kinds
    },
    "position_bias": agreement.to_row(agreement.position_bias(labels)),
    **_leanings(labels, humans),
  }


def _leanings(
  labels: list[records.Preference], humans: list[records.Preference]
) -> dict[str, Any]:
  """Calibration and liking for length, on all pairs."""
  given = {label.id: label.p_first for label in labels}
  p = np.asarray([given.get(human.id, math.nan) for human in humans])
  truth = np.asarray([human.p_first for human in humans])
  lengths = (
    np.asarray([len(human.first) for human in humans]),
    np.asarray([len(human.second) for human in humans]),
  )
  found = {
    "calibration": calibration.calibration(p, truth),
    "length": position.length_preference(p, truth, lengths),
  }
  return {name: dataclasses.asdict(value) for name, value in found.items()}


def note_seconds(
  path: pathlib.Path, name: str, seconds: float, asked: int
) -> float | None:
  """Seconds a label of a cell, over all starts; None when none was asked.

  Kept in a file of its own, since a resumed run asks only for the rest.
  """
  if asked:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as f:
      row = {"cell": name, "seconds": seconds, "asked": asked}
      f.write(jsonl.dump_row(row) + "\n")
  if not path.exists():
    return None
  rows = jsonl.parse_rows(path, dict, jsonl.Quarantine())
  mine = [row for row in rows if row["cell"] == name]
  total = sum(row["asked"] for row in mine)
  return sum(row["seconds"] for row in mine) / total if total else None
