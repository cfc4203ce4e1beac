# SPDX-License-Identifier: Apache-2.0
"""Tables and figures of toy worlds, for the report and as Markdown."""

from __future__ import annotations

import pathlib
import statistics
from typing import Mapping, Sequence

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.evaluation import figures
from rlaif_jax.experiments import toy_curves

Table = tuple[list[str], list[list[str]]]
Row = toy_curves.Row
# "name", "tables" by title, and "figures" with captions.
Toy = records.Row

# The KL at which policies are compared, in nats a response.
TARGETS = (2.0, 5.0, 10.0)
# Most lines of a figure: six colours, solid and dashed.
_LINES = 12


def policies(rows: Sequence[Row]) -> Table:
  """Returns gold of policies at matched KL, at best and at the end of training.

  An arm that only searches is shown with its best of n, at the bound of its
  KL. Differences are to the first arm, within seeds.
  """
  arms = toy_curves.arms_of(rows)
  arms = [a for a in arms if toy_curves.paths(rows, a)]
  head = ["arm", "seeds"]
  head += [f"gold at KL {target:g}" for target in TARGETS]
  head += ["best gold", "gold at the end", "end minus the first arm's"]
  last = [
    name
    for name in ("win_rate", "proxy", "kl", "tokens")
    if any(name in row for row in rows)
  ]
  head += [f"{_NAMES.get(name, name)} at the end" for name in last]
  values = [toy_curves.at("gold", target) for target in TARGETS]
  values += [toy_curves.best, toy_curves.last("gold")]
  lines = []
  for arm in arms:
    ours = toy_curves.path_values(rows, arm, toy_curves.last("gold"))
    theirs = toy_curves.path_values(rows, arms[0], toy_curves.last("gold"))
    cells = [arm, str(len(ours))]
    cells += [
      _of_seeds(toy_curves.path_values(rows, arm, value), len(ours))
      for value in values
    ]
    cells.append(
      "" if arm == arms[0] else str(toy_curves.difference(ours, theirs))
    )
    for name in last:
      path = toy_curves.path_values(rows, arm, _last_or_nothing(name))
      cells.append(str(toy_curves.measure(list(path.values()))))
    lines.append(cells)
  return head, lines


# Key of a `policy` row -> its name in a table, where they differ.
_NAMES = {"win_rate": "win rate", "kl": "KL"}


def deviations(rows: Sequence[Row]) -> Table | None:
  """Returns the members' deviation along training."""
  arms = [
    arm
    for arm in toy_curves.arms_of(rows)
    if any(
      row["arm"] == arm and row["stage"] == "policy" and row.get("deviation")
      for row in rows
    )
  ]
  if not arms:
    return None
  values = {"at the start": lambda path: float(path[0]["deviation"])}
  for target in TARGETS:
    values[f"at KL {target:g}"] = toy_curves.at("deviation", target)
  values["at the end"] = toy_curves.last("deviation")
  lines = []
  for arm in arms:
    seeds = len(toy_curves.paths(rows, arm))
    found = [toy_curves.path_values(rows, arm, v) for v in values.values()]
    cells = [_of_seeds(one, seeds) for one in found]
    change = toy_curves.difference(found[-1], found[0])
    lines.append([arm, *cells, str(change)])
  return ["arm", *values, "end minus start"], lines


def _last_or_nothing(name: str):
  def last(path) -> float:
    value = path[-1].get(name)
    return float("nan") if value is None else float(value)

  return last


def _of_seeds(values: Mapping[int, float], seeds: int) -> str:
  """Returns the mean, with the number of seeds if some have no value."""
  found = toy_curves.measure(list(values.values()))
  few = f" ({found.n} of {seeds})" if 0 < found.n < seeds else ""
  return f"{found}{few}"


def searches(rows: Sequence[Row]) -> Table | None:
  """Returns gold of the best of n, and differences to the first arm."""
  first, *_ = arms = toy_curves.arms_of(rows)
  arms = [arm for arm in arms if toy_curves.by_seed(rows, arm, "search")]
  if not arms:
    return None
  sizes = sorted({row["n"] for row in rows if row["stage"] == "search"})
  sizes = [n for n in sizes if n > 1]
  head = ["arm", *(f"gold, best of {n}" for n in sizes)]
  head.append(f"best of {sizes[-1]} minus the first arm's")
  lines = []
  for arm in arms:
    found = [toy_curves.search_values(rows, arm, n) for n in sizes]
    cells = [arm]
    cells += [str(toy_curves.measure(list(v.values()))) for v in found]
    theirs = toy_curves.search_values(rows, first, sizes[-1])
    cells.append(
      "" if arm == first else str(toy_curves.difference(found[-1], theirs))
    )
    lines.append(cells)
  return head, lines


# Key of a `proxy` row -> its column.
_PROXY = {
  "label_accuracy": "label accuracy",
  "accuracy": "accuracy, test pairs",
  "member_accuracy": "accuracy of one member",
  "train_accuracy": "accuracy, training labels",
  "ece": "ECE",
  "ece_if_right": "ECE if right",
  "ece_rescaled": "ECE, rescaled",
  "disagreement": "members' deviation",
  "correlation": "members' correlation",
  "far_correlation": "members' correlation, random words",
  "diversity": "nuclear ratio",
}


def proxies(rows: Sequence[Row], costs: Sequence[Row]) -> Table | None:
  """Returns accuracy, calibration, disagreement and cost of the proxies.

  A quantity that no proxy has gets no column.
  """
  arms = [
    arm
    for arm in toy_curves.arms_of(rows)
    if toy_curves.by_seed(rows, arm, "proxy")
  ]
  if not arms:
    return None
  keys = [
    key
    for key in _PROXY
    if any(row["stage"] == "proxy" and key in row for row in rows)
  ]
  head = ["arm", *(_PROXY[key] for key in keys)]
  head += ["parameters", "trained at last"]
  head += ["ms per update", "ms per scoring of 2,048"]
  lines = []
  for arm in arms:
    found = [p[0] for p in toy_curves.by_seed(rows, arm, "proxy").values()]
    cells = [arm]
    for key in keys:
      values = [row[key] for row in found if key in row]
      cells.append(_three_digits(toy_curves.measure(values)))
    cells += [f"{found[0][key]:,}" for key in ("parameters", "learned")]
    for key in ("update_seconds", "score_seconds"):
      times = [1e3 * c[key] for c in costs if c["arm"] == arm]
      cells.append(f"{statistics.median(times):.1f}" if times else "-")
    lines.append(cells)
  return head, lines


def _three_digits(found: toy_curves.Measure) -> str:
  if not found.n:
    return "-"
  error = "" if found.n < 2 else f" ± {found.error:.3f}"
  return f"{found.mean:.3f}{error}"


def markdown(toys: Sequence[Toy]) -> str:
  """Returns all tables of all toy worlds as Markdown."""
  text = ""
  for toy in toys:
    for title, (head, lines) in toy["tables"].items():
      rows = [head, ["---"] * len(head), *lines]
      table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
      text += f"## {toy['name']}: {title}\n\n{table}\n"
  return text


def tables(rows: Sequence[Row], costs: Sequence[Row]) -> dict[str, Table]:
  """Returns title -> table of the stages in the rows."""
  found = {
    "Policies": policies(rows) if _has(rows, "policy") else None,
    "Members' deviation": deviations(rows),
    "Best of n": searches(rows),
    "Proxies": proxies(rows, costs),
  }
  return {title: table for title, table in found.items() if table}


def _has(rows: Sequence[Row], stage: str) -> bool:
  return any(row["stage"] == stage for row in rows)


def drawings(rows: Sequence[Row]) -> list[tuple[str, str]]:
  """Returns (caption, SVG) of gold, proxy and deviation against KL.

  The first figures show trained policies, and best of n for arms that only
  search; the last ones show best of n. Every figure has the first arm.
  """
  result = []
  for word in ("trained", "best of n"):
    found = {
      arm: toy_curves.paths(rows, arm)
      if word == "trained"
      else toy_curves.by_seed(rows, arm, "search")
      for arm in toy_curves.arms_of(rows)
    }
    arms = [arm for arm in found if found[arm]]
    for begin in range(1, max(len(arms), 2), _LINES - 1):
      shown = arms[:1] + arms[begin : begin + _LINES - 1]
      lines = {
        arm: {
          name: [
            (kl, m.mean, 0.0 if m.n < 2 else m.error)
            for kl, m in toy_curves.curve(found[arm], name)
          ]
          for name in ("gold", "proxy", "deviation", "tokens")
        }
        for arm in shown
      }
      caption = f"{word}; means over seeds, bars are standard errors"
      result.append((caption, figures.against_kl(lines)))
  return result


def read(root: pathlib.Path) -> list[Toy]:
  """Returns name, tables and figures of the toy worlds in a folder."""
  toys = []
  for path in sorted(root.glob("*/rows.jsonl")):
    rows = jsonl.parse_rows(path, jsonl.row_of)
    costs = path.with_name("costs.jsonl")
    costs = jsonl.parse_rows(costs, jsonl.row_of) if costs.exists() else []
    toys.append(
      {
        "name": path.parent.name,
        "tables": tables(rows, costs),
        "figures": drawings(rows),
      }
    )
  return toys
