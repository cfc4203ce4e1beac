# SPDX-License-Identifier: Apache-2.0
"""Which two of K responses become a pair, and what a pair weighs: in numpy, on
the host."""

from __future__ import annotations

import numpy as np

from rlaif_jax.ops import preference

CHOICES = ("max_min", "max_random", "max_max", "random")
WEIGHTS = ("gap", "shuffled", "top")


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


def weights(
  gaps: np.ndarray, kind: str, generator: np.random.Generator
) -> np.ndarray:
  """What pairs weigh by a model's gap, with mean 1: [B] -> [B].

      gap       `ops.preference.gap_weights`, RDO's (arXiv:2408.09385)
      shuffled  the same ones over other pairs: a control
      top       the half of the pairs with the largest gaps, all alike

  Args:
    gaps: in favour of the labelled winner.
    kind: one of WEIGHTS.
    generator: of what is drawn.

  Raises:
    ValueError: no such kind.
  """
  if kind not in WEIGHTS:
    raise ValueError(f"weights are {kind!r}; use one of {WEIGHTS}")
  if kind == "top":
    top = (gaps >= np.median(gaps)).astype(np.float32)
    return top / top.mean()
  found = np.asarray(preference.gap_weights(gaps))
  return generator.permutation(found) if kind == "shuffled" else found
