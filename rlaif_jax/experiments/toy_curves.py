# SPDX-License-Identifier: Apache-2.0
"""Rows of a rig to numbers over seeds: at matched KL, at best, at the end.

A seed is one observation, so every error here is a standard error over seeds;
arms of a seed share its world, and differences are taken within seeds.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Callable, Mapping, Sequence

import numpy as np

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measure:
  """A mean over n seeds with its standard error (NaN for fewer than two)."""

  mean: float
  error: float
  n: int

  def __str__(self) -> str:
    if not self.n:
      return "-"
    error = "" if np.isnan(self.error) else f" ± {self.error:.2f}"
    return f"{self.mean:.2f}{error}"


def measure(values: Sequence[float]) -> Measure:
  """Of the values that are numbers; NaN says that a seed has none."""
  kept = np.asarray([v for v in values if not np.isnan(v)], float)
  if not len(kept):
    return Measure(mean=float("nan"), error=float("nan"), n=0)
  error = float("nan")
  if len(kept) > 1:
    error = float(kept.std(ddof=1) / np.sqrt(len(kept)))
  return Measure(mean=float(kept.mean()), error=error, n=len(kept))


def at_kl(kl: Sequence[float], values: Sequence[float], target: float) -> float:
  """The value where a path first reaches a KL, by a straight line; else NaN.

  A path may come back to a KL later, with a worse policy: it is the first
  time that counts, as if training had stopped there.
  """
  for i in range(len(kl)):
    if kl[i] >= target:
      if i == 0:
        return float(values[0])
      share = (target - kl[i - 1]) / (kl[i] - kl[i - 1])
      return float(values[i - 1] + share * (values[i] - values[i - 1]))
  return float("nan")


def by_seed(rows: Sequence[Row], arm: str, stage: str) -> dict[int, list[Row]]:
  """seed -> rows of an arm's stage, in the order of the file."""
  result: dict[int, list[Row]] = {}
  for row in rows:
    if row["arm"] == arm and row["stage"] == stage:
      result.setdefault(row["seed"], []).append(row)
  return result


def arms_of(rows: Sequence[Row]) -> list[str]:
  """Names of the arms in the order of the file."""
  return list(dict.fromkeys(row["arm"] for row in rows))


def column(path: Sequence[Row], name: str) -> list[float]:
  """One quantity along a path."""
  return [float(row[name]) for row in path]


def paths(rows: Sequence[Row], arm: str) -> dict[int, list[Row]]:
  """seed -> an arm's way from the first policy: what its policy measured in
  training, or, of an arm that trains none, its best of n by n."""
  found = by_seed(rows, arm, "policy")
  return found or by_seed(rows, arm, "search")


def path_values(
  rows: Sequence[Row], arm: str, value: Callable[[Sequence[Row]], float]
) -> dict[int, float]:
  """seed -> a number of an arm's path."""
  return {seed: value(path) for seed, path in paths(rows, arm).items()}


def difference(
  ours: Mapping[int, float], theirs: Mapping[int, float]
) -> Measure:
  """Ours minus theirs within the seeds that both have."""
  return measure([ours[s] - theirs[s] for s in ours if s in theirs])


def at(name: str, target: float) -> Callable[[Sequence[Row]], float]:
  """A quantity of a path where it first reaches a KL."""
  return lambda path: at_kl(column(path, "kl"), column(path, name), target)


def last(name: str) -> Callable[[Sequence[Row]], float]:
  """A quantity at the end of a path."""
  return lambda path: float(path[-1][name])


def best(path: Sequence[Row]) -> float:
  """The highest gold of a path: what a stop that knows gold would give."""
  return max(column(path, "gold"))


def search_values(rows: Sequence[Row], arm: str, n: int) -> dict[int, float]:
  """seed -> gold of the best of n."""
  found = by_seed(rows, arm, "search")
  return {
    seed: next(row["gold"] for row in path if row["n"] == n)
    for seed, path in found.items()
  }


def curve(
  found: Mapping[int, Sequence[Row]], name: str
) -> list[tuple[float, Measure]]:
  """(mean KL, quantity over seeds) at each measurement of an arm's paths."""
  lines = list(found.values())
  if not lines or any(name not in row for line in lines for row in line):
    return []
  points = []
  for i in range(min(map(len, lines))):
    kl = float(np.mean([line[i]["kl"] for line in lines]))
    points.append((kl, measure([line[i][name] for line in lines])))
  return points
