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
from typing import Any, Iterator, Mapping

import numpy as np

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.evaluation import agreement
from rlaif_jax.evaluation import audit_report
from rlaif_jax.evaluation import calibration
from rlaif_jax.evaluation import position
from rlaif_jax.jobs import labelers as labelers_lib
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
  max_context_tokens: int = 4096
  max_rationale_tokens: int = 512

  def __post_init__(self):
    if not 0.0 <= self.select_share < 1.0:
      raise ValueError(
        f"select_share is {self.select_share}; it should be at least 0 and "
        "below 1"
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
      for cell, config in grid.cells(task):
        begin = time.monotonic()
        stored = labelers_lib.label(
          functools.partial(as_pairs, humans),
          labeler,
          config,
          store_dir=f"{output_dir}/store",
          chunk_size=chunk_size,
          prices=prices,
          quarantine=quarantine,
        )
        labels = list(stored.labels(as_pairs(humans)))
        seconds = note_seconds(
          directory / "seconds.jsonl",
          f"{name}/{task}/{cell}",
          time.monotonic() - begin,
          stored.asked,
        )
        rows.append(
          {
            "labeler": name,
            "task": task,
            "cell": cell,
            **measure(labels, humans, grid.select_share),
            "seconds_per_label": seconds,
            "cost_usd": prices.cost_usd(stored.usage),
            "usage": records.to_row(stored.usage),
          }
        )
        stored.close()
    del labeler
  jsonl.write_text(
    directory / "cells.jsonl", "".join(jsonl.dump_row(r) + "\n" for r in rows)
  )
  audit_report.write_report(rows, directory / "audit.html")
  return {
    "report": f"{output_dir}/audit.html",
    "cells": len(rows),
    "best": audit_report.best(rows),
    "quarantined": quarantine.write(directory / "quarantine.jsonl"),
    "quarantine_reasons": quarantine.counts(),
  }


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
  chosen, rest = [], []
  for human in humans:
    name = records.content_id(human.context, human.first, human.second)
    is_chosen = int(name[:8], 16) < select_share * 2**32
    (chosen if is_chosen else rest).append(human)
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
