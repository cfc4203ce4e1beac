# SPDX-License-Identifier: Apache-2.0
"""Compares each two policies by a judge's labels or by people's rankings."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Callable, Iterable, Mapping, Sequence

import numpy as np

from rlaif_jax.core import records
from rlaif_jax.evaluation import position
from rlaif_jax.evaluation import rankings
from rlaif_jax.evaluation import win_rate

# (policy a, policy b) -> pairs with a's response first.
Pairs = Mapping[tuple[str, str], Sequence[records.Pair]]


def pair_responses(
  sampled: Mapping[str, Mapping[str, records.Response]], *, limit: int = 0
) -> dict[tuple[str, str], list[records.Pair]]:
  """Pairs the responses of each two policies to their common contexts.

  Args:
    sampled: policy -> context id -> response, as `run_files.responses`.
    limit: number of contexts to use, in the order of their ids; 0 uses all.

  Raises:
    ValueError: the policies have no context in common.
  """
  order = sorted(set.intersection(*(set(by_id) for by_id in sampled.values())))
  order = order[:limit] if limit else order
  if not order:
    raise ValueError(
      f"{sorted(sampled)} have no context in common; sample responses of all "
      "policies for the same split"
    )
  return {
    (a, b): [
      records.Pair(
        id=records.content_id(a, b, name),
        context=sampled[a][name].context,
        first=sampled[a][name].text,
        second=sampled[b][name].text,
      )
      for name in order
    ]
    for a, b in itertools.combinations(sampled, 2)
  }


def compare_by_judge(
  pairs: Pairs,
  labels_of: Callable[[Sequence[records.Pair]], Iterable[records.Preference]],
) -> records.Row:
  """Returns win rates by a judge, and its position bias.

  A pair of equal texts is a tie in both orders.

  Args:
    pairs: pairs of each two policies.
    labels_of: returns the labels of pairs, without those that have none.
  """
  tie = {"p_orders": (0.5, 0.5)}
  labels = {
    names: [
      label if label.p_orders else dataclasses.replace(label, **tie)
      for label in labels_of(rows)
    ]
    for names, rows in pairs.items()
  }
  counts = {names: len(rows) for names, rows in pairs.items()}
  orders = [label.p_orders for rows in labels.values() for label in rows]
  flat = np.asarray(orders, float).reshape(-1, 2)
  return {
    "comparisons": [
      dataclasses.asdict(c) for c in win_rate.judged_matrix(labels, counts)
    ],
    "order": dataclasses.asdict(position.order_statistics(flat)),
  }


def compare_by_rankings(
  rows: Sequence[rankings.Ranking],
) -> records.Row:
  """Returns win rates by people's rankings, and the agreement of the raters."""
  return {
    "comparisons": [dataclasses.asdict(c) for c in rankings.matrix(rows)],
    "concordance": dataclasses.asdict(rankings.concordance(rows)),
    "raters": sorted({row.rater for row in rows}),
  }
