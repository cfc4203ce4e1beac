# SPDX-License-Identifier: Apache-2.0
"""Means over seeds of a toy world's rows: at matched KL, at best, at the end.

A seed is one observation: errors are standard errors over seeds. Arms of a
seed share its world, so differences are taken within seeds.
"""

from __future__ import annotations

import dataclasses
from typing import Callable, Mapping, Sequence

import numpy as np

Row = Mapping[str, str | int | float]


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
  """Returns the mean of the values; a seed without value has NaN."""
  kept = np.asarray([v for v in values if not np.isnan(v)], float)
  if not len(kept):
    return Measure(mean=float("nan"), error=float("nan"), n=0)
  error = float("nan")
  if len(kept) > 1:
    error = float(kept.std(ddof=1) / np.sqrt(len(kept)))
  return Measure(mean=float(kept.mean()), error=error, n=len(kept))


def at_kl(kl: Sequence[float], values: Sequence[float], target: float) -> float:
  """Returns the value where a path first reaches a KL, or NaN.

  It is interpolated linearly. A path may reach a KL again later with a worse
  policy; the first time is that of a policy that stopped there.
  """
  for i in range(len(kl)):
    if kl[i] >= target:
      if i == 0:
        return float(values[0])
      share = (target - kl[i - 1]) / (kl[i] - kl[i - 1])
      return float(values[i - 1] + share * (values[i] - values[i - 1]))
  return float("nan")


def by_seed(rows: Sequence[Row], arm: str, stage: str) -> dict[int, list[Row]]:
  """Returns seed -> rows of an arm's stage, in the order of the file."""
  result: dict[int, list[Row]] = {}
  for row in rows:
    if row["arm"] == arm and row["stage"] == stage:
      result.setdefault(row["seed"], []).append(row)
  return result


def arms_of(rows: Sequence[Row]) -> list[str]:
  """Returns the names of the arms, in the order of the file."""
  return list(dict.fromkeys(row["arm"] for row in rows))


def column(path: Sequence[Row], name: str) -> list[float]:
  """Returns one quantity along a path."""
  return [float(row[name]) for row in path]


def paths(rows: Sequence[Row], arm: str) -> dict[int, list[Row]]:
  """Returns seed -> measurements of an arm's policy along training.

  For an arm that trains no policy it is best of n, by n.
  """
  found = by_seed(rows, arm, "policy")
  return found or by_seed(rows, arm, "search")


def path_values(
  rows: Sequence[Row], arm: str, value: Callable[[Sequence[Row]], float]
) -> dict[int, float]:
  """Returns seed -> a number of an arm's path."""
  return {seed: value(path) for seed, path in paths(rows, arm).items()}


def difference(a: Mapping[int, float], b: Mapping[int, float]) -> Measure:
  """Returns the mean difference over the seeds that both have."""
  return measure([a[seed] - b[seed] for seed in a if seed in b])


def at(name: str, target: float) -> Callable[[Sequence[Row]], float]:
  """Returns the function of a path that is a quantity at a KL."""
  return lambda path: at_kl(column(path, "kl"), column(path, name), target)


def last(name: str) -> Callable[[Sequence[Row]], float]:
  """Returns the function of a path that is a quantity at its end."""
  return lambda path: float(path[-1][name])


def best(path: Sequence[Row]) -> float:
  """Returns the highest gold of a path, as with early stopping by gold."""
  return max(column(path, "gold"))


def search_values(rows: Sequence[Row], arm: str, n: int) -> dict[int, float]:
  """Returns seed -> gold of the best of n."""
  found = by_seed(rows, arm, "search")
  return {
    seed: next(row["gold"] for row in path if row["n"] == n)
    for seed, path in found.items()
  }


def curve(
  found: Mapping[int, Sequence[Row]], name: str
) -> list[tuple[float, Measure]]:
  """Returns (mean KL, mean quantity) at each measurement of the paths."""
  lines = list(found.values())
  if not lines or any(name not in row for line in lines for row in line):
    return []
  points = []
  for i in range(min(map(len, lines))):
    kl = float(np.mean([line[i]["kl"] for line in lines]))
    points.append((kl, measure([line[i][name] for line in lines])))
  return points
