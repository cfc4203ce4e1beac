# SPDX-License-Identifier: Apache-2.0
"""Measures a judge against human labels: alignment, bias, calibration, speed.

Pairs are split by a hash of their texts into those on which the best judge is
selected and those on which it is reported.
"""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
from typing import Sequence

import numpy as np

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.evaluation import agreement
from rlaif_jax.evaluation import calibration
from rlaif_jax.evaluation import position


def split_pairs(
  humans: Sequence[records.Preference], share: float
) -> tuple[list[records.Preference], list[records.Preference]]:
  """Splits labelled pairs into those to select on and the others.

  Args:
    humans: human labels.
    share: expected share of the first part.
  """
  selection, rest = [], []
  for human in humans:
    name = records.content_id(human.context, human.first, human.second)
    is_selected = int(name[:8], 16) < share * 2**32
    (selection if is_selected else rest).append(human)
  return selection, rest


def measure(
  labels: Sequence[records.Preference],
  humans: Sequence[records.Preference],
  select_share: float,
) -> records.Row:
  """Returns alignment on both parts, and bias and calibration on all pairs.

  The alignment of a part without any label is None. `kinds` has the alignment
  for each `source` of the pairs in the second part. `truncated` counts the
  labels whose context did not fit into the prompt.
  """
  selection, rest = split_pairs(humans, select_share)
  labelled = {label.id for label in labels}

  def align(part):
    if not any(human.id in labelled for human in part):
      return None
    return agreement.to_row(agreement.alignment(labels, part))

  kinds = sorted({human.source for human in rest if human.source})
  p_first = {label.id: label.p_first for label in labels}
  p = np.asarray([p_first.get(human.id, math.nan) for human in humans])
  truth = np.asarray([human.p_first for human in humans])
  lengths = (
    np.asarray([len(human.first) for human in humans]),
    np.asarray([len(human.second) for human in humans]),
  )
  return {
    "selection": align(selection),
    "alignment": align(rest),
    "kinds": {
      kind: align([h for h in rest if h.source == kind]) for kind in kinds
    },
    "truncated": sum(label.cut_tokens > 0 for label in labels),
    "position_bias": agreement.to_row(agreement.position_bias(labels)),
    "calibration": dataclasses.asdict(calibration.calibration(p, truth)),
    "length": dataclasses.asdict(position.length_preference(p, truth, lengths)),
  }


def seconds_per_label(
  path: str | os.PathLike, name: str, seconds: float, count: int
) -> float | None:
  """Returns the mean seconds per label over all runs of a judge.

  A resumed run labels only the missing pairs, so the seconds of each run are
  appended to a file.

  Args:
    path: JSONL file of the seconds.
    name: name of the judge in the file.
    seconds: seconds of this run.
    count: number of pairs labelled in this run; 0 appends nothing.

  Returns:
    The mean, or None if no run has labelled a pair.
  """
  path = pathlib.Path(path)
  if count:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as f:
      row = {"judge": name, "seconds": seconds, "count": count}
      f.write(jsonl.dump_row(row) + "\n")
  if not path.exists():
    return None
  rows = jsonl.parse_rows(path, jsonl.row_of, jsonl.Quarantine())
  rows = [row for row in rows if row["judge"] == name]
  total = sum(row["count"] for row in rows)
  return sum(row["seconds"] for row in rows) / total if total else None
