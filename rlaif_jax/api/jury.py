# SPDX-License-Identifier: Apache-2.0
"""Jury: the mean of the soft labels of several labelers.

Verga et al., arXiv 2404.18796, let several smaller models vote. Here their soft
labels are averaged, in each presentation order.
"""

from __future__ import annotations

import collections
from typing import Collection, NamedTuple, Sequence

import numpy as np

from rlaif_jax.api import judge_cells
from rlaif_jax.core import records

NAME = "jury"
ALL = "all"
# Task and judge.
Key = tuple[str, str]


class _Vote(NamedTuple):
  """A label without its texts."""

  p_first: float
  p_orders: tuple[float, ...]
  cut_tokens: int


class Jury:
  """Collects the labels of several labelers for each task and judge.

  Args:
    members: names of labelers, or ("all",); () is no jury.
    labelers: names of all labelers.

  Attributes:
    members: names of the members.

  Raises:
    ValueError: a member is unknown or named twice, there is one member only, or
      a labeler has the name of the jury.
  """

  def __init__(self, members: Sequence[str], labelers: Collection[str]):
    members = tuple(labelers) if tuple(members) == (ALL,) else tuple(members)
    for name in members:
      if name not in labelers:
        raise ValueError(
          f"jury has {name!r}, which is no labeler; use names of labelers, "
          f"which are {sorted(labelers)}, or ('{ALL}',)"
        )
    if members and len(set(members)) < max(2, len(members)):
      raise ValueError(
        f"jury is {members}; it needs two or more different labelers, such as "
        '--jury=\'("A", "B")\''
      )
    if members and NAME in labelers:
      raise ValueError(
        f"a labeler has the name {NAME!r}, which is that of the mean of their "
        "labels; rename it in labelers"
      )
    self.members = members
    self._votes: dict[Key, list[dict[str, _Vote]]] = {}
    self._cells: dict[Key, list[judge_cells.Cell]] = {}

  @property
  def keys(self) -> tuple[Key, ...]:
    """Task and judge of the labels, in the order of the first member."""
    return tuple(self._votes)

  def add(self, labeler: str, key: Key, cell: judge_cells.Cell) -> None:
    """Adds the labels of a labeler, if it is a member; keeps no texts."""
    if labeler not in self.members:
      return
    votes = {
      label.id: _Vote(label.p_first, label.p_orders, label.cut_tokens)
      for label in cell.labels
    }
    self._votes.setdefault(key, []).append(votes)
    costs = judge_cells.Cell(
      labels=[], costs=cell.costs, subset_costs=cell.subset_costs
    )
    self._cells.setdefault(key, []).append(costs)

  def cell(
    self, key: Key, pairs: Sequence[records.Preference]
  ) -> judge_cells.Cell:
    """Returns the mean labels, and the sums of the members' costs.

    A pair that a member did not label has no label, so that every label has the
    same members.

    Args:
      key: task and judge.
      pairs: the pairs; their labels are ignored.
    """
    cells = self._cells[key]
    seconds = [cell.costs["seconds_per_label"] for cell in cells]
    usage = sum(
      (records.from_row(records.Usage, cell.costs["usage"]) for cell in cells),
      records.Usage(),
    )
    subset_costs: dict[str, float] = collections.defaultdict(float)
    for cell in cells:
      for subset, cost in cell.subset_costs.items():
        subset_costs[subset] += cost
    return judge_cells.Cell(
      labels=[label for p in pairs if (label := self._mean(key, p))],
      costs={
        "seconds_per_label": None if None in seconds else sum(seconds),
        "cost_usd": sum(cell.costs["cost_usd"] for cell in cells),
        "usage": records.to_row(usage),
      },
      subset_costs=dict(subset_costs),
    )

  def _mean(
    self, key: Key, pair: records.Preference
  ) -> records.Preference | None:
    """Returns the mean label of a pair, or None if a member has none."""
    found = [votes.get(pair.id) for votes in self._votes[key]]
    if None in found:
      return None
    orders = [vote.p_orders for vote in found]
    is_both = all(len(values) == 2 for values in orders)
    return records.Preference(
      **records.to_row(records.pair_of_row(records.to_row(pair))),
      p_first=float(np.mean([vote.p_first for vote in found])),
      p_orders=tuple(np.mean(orders, axis=0).tolist()) if is_both else (),
      labeler=NAME,
      cut_tokens=max(vote.cut_tokens for vote in found),
    )
