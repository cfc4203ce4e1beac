# SPDX-License-Identifier: Apache-2.0
"""Which two of K responses become a pair, in numpy, on the host."""

from __future__ import annotations

import numpy as np

CHOICES = ("max_min", "max_random", "max_max", "random")


def choose(
  scores: np.ndarray, kind: str, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Winner and loser of each prompt's responses: [P, K] -> [P], [P], [P].

      max_min     the best against the worst (arXiv:2405.07863)
      max_random  the best against any other
      max_max     the best against the second best
      random      any two

  Args:
    scores: [P, K].
    kind: one of CHOICES.
    generator: of what is drawn.

  Returns:
    Columns of winner and loser, and whether to keep the pair: a tie says
    nothing and is dropped.

  Raises:
    ValueError: no such kind, or fewer than two responses.
  """
  rows, count = scores.shape
  if kind not in CHOICES:
    raise ValueError(f"choose is {kind!r}; use one of {CHOICES}")
  if count < 2:
    raise ValueError(f"choose: {count} response a prompt; a pair needs two")
  order = np.argsort(-scores, axis=1, kind="stable")
  first = order[:, 0]
  if kind == "max_min":
    second = order[:, -1]
  elif kind == "max_max":
    second = order[:, 1]
  elif kind == "max_random":
    place = generator.integers(1, count, rows)
    second = order[np.arange(rows), place]
  else:
    # Two different places in the order; the higher one wins.
    drawn = generator.random((rows, count)).argsort(axis=1)[:, :2]
    drawn.sort(axis=1)
    first, second = (order[np.arange(rows), drawn[:, i]] for i in (0, 1))
  every = np.arange(rows)
  return first, second, scores[every, first] > scores[every, second]


def penalized(
  scores: np.ndarray, tokens: np.ndarray, weight: float
) -> np.ndarray:
  """score - weight * tokens: selection that does not reward length (the
  authors' code of arXiv:2405.07863 counts characters)."""
  return scores - weight * tokens


def mean_wins(chances: np.ndarray) -> np.ndarray:
  """Mean chance to beat the others: [P, K, K] -> [P, K].

  Args:
    chances: P(row beats column); the diagonal is not read.
  """
  count = chances.shape[1]
  others = ~np.eye(count, dtype=bool)
  return np.where(others, chances, 0.0).sum(axis=2) / (count - 1)
