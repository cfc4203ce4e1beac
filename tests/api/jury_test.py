# SPDX-License-Identifier: Apache-2.0
"""The mean of the labels of several labelers."""

from __future__ import annotations

import pytest

from rlaif_jax.api import judge_cells
from rlaif_jax.api import jury
from rlaif_jax.core import records

PAIRS = [
  records.Preference(
    id=name,
    context=f"c {name}",
    first="a",
    second="b",
    p_first=1.0,
    labeler="human",
    source="s",
  )
  for name in "xyz"
]
KEY = ("task", "prompt")


def cell(labels, *, seconds=1.0, cost=0.5, tokens=10):
  """Labels by id: (p_first, p_orders)."""
  return judge_cells.Cell(
    labels=[
      records.Preference(
        **records.to_row(records.pair_of_row(records.to_row(pair))),
        p_first=labels[pair.id][0],
        p_orders=labels[pair.id][1],
        labeler="model",
      )
      for pair in PAIRS
      if pair.id in labels
    ],
    costs={
      "seconds_per_label": seconds,
      "cost_usd": cost,
      "usage": records.to_row(records.Usage(input_tokens=tokens)),
    },
    subset_costs={"s": cost},
  )


def test_the_mean_of_the_members_by_hand():
  panel = jury.Jury(("a", "b"), ("a", "b", "c"))
  panel.add("a", KEY, cell({"x": (0.9, (1.0, 0.8)), "y": (0.2, (0.2, 0.2))}))
  panel.add("c", KEY, cell({"x": (0.0, ()), "z": (0.0, ())}, cost=9.0))
  panel.add(
    "b",
    KEY,
    cell(
      {"x": (0.5, (0.75, 0.25)), "z": (0.1, ())},
      seconds=2.0,
      cost=0.25,
      tokens=5,
    ),
  )
  assert panel.keys == (KEY,)
  found = panel.cell(KEY, PAIRS)
  (label,) = found.labels  # y has no label of b, z none of a
  assert label.p_first == pytest.approx(0.7)
  assert label.p_orders == pytest.approx((0.875, 0.525))
  assert (label.id, label.source, label.labeler) == ("x", "s", "jury")
  assert (label.context, label.first) == ("c x", "a")
  assert found.costs["seconds_per_label"] == 3.0
  assert found.costs["cost_usd"] == 0.75
  assert found.costs["usage"]["input_tokens"] == 15
  assert found.subset_costs == {"s": 0.75}


def test_orders_and_seconds_are_kept_if_all_members_have_them():
  panel = jury.Jury(("all",), ("a", "b"))
  assert panel.members == ("a", "b")
  panel.add("a", KEY, cell({"x": (0.9, (1.0, 0.8))}, seconds=None))
  panel.add("b", KEY, cell({"x": (0.5, ())}))
  found = panel.cell(KEY, PAIRS)
  assert found.labels[0].p_orders == ()
  assert found.costs["seconds_per_label"] is None


def test_wrong_juries_are_named():
  with pytest.raises(ValueError, match=r"'c', which is no .* \['a', 'b'\]"):
    jury.Jury(("a", "c"), ("a", "b"))
  for members, labelers in (
    (("a",), "ab"),
    (("a", "a"), "ab"),
    (("all",), "a"),
  ):
    with pytest.raises(ValueError, match="two or more different labelers"):
      jury.Jury(members, tuple(labelers))
  with pytest.raises(ValueError, match="a labeler has the name 'jury'"):
    jury.Jury(("jury", "a"), ("jury", "a"))
  none = jury.Jury((), ("jury",))
  none.add("jury", KEY, cell({"x": (0.9, ())}))
  assert none.keys == ()
