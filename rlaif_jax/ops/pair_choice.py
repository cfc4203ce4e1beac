# SPDX-License-Identifier: Apache-2.0
"""Chooses pairs among K responses, and weights of pairs, in numpy."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int, Shaped

from rlaif_jax.ops import preference

CHOICES = ("max_min", "max_random", "max_max", "random")
WEIGHTS = ("margin", "shuffled", "top")


def choose(
  scores: Float[np.ndarray, "P K"], kind: str, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns winner and loser of each prompt: [P, K] -> [P], [P], [P].

      max_min     the best and the worst (arXiv:2405.07863)
      max_random  the best and a random other
      max_max     the best and the second best
      random      two random ones

  Args:
    scores: [P, K].
    kind: one of CHOICES.
    generator: of the random choices.

  Returns:
    Columns of winner and loser, and whether to keep the pair; ties are dropped.

  Raises:
    ValueError: unknown kind, or fewer than two responses.
  """
  rows, count = scores.shape
  if kind not in CHOICES:
    raise ValueError(f"choose is {kind!r}; use one of {CHOICES}")
  if count < 2:
    raise ValueError(f"choose: K is {count}; it must be >= 2")
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
    chosen = generator.random((rows, count)).argsort(axis=1)[:, :2]
    chosen.sort(axis=1)
    first, second = (order[np.arange(rows), chosen[:, i]] for i in (0, 1))
  every = np.arange(rows)
  return first, second, scores[every, first] > scores[every, second]


def ring(size: int, neighbours: int) -> Int[np.ndarray, "M 2"]:
  """Returns each pair of a ring once: columns and their next neighbours.

  Args:
    size: number of columns, K.
    neighbours: columns that follow; from (K - 1) / 2 on, these are all pairs.
  """
  ahead = [
    tuple(sorted((i, (i + j) % size)))
    for j in range(1, min(neighbours, size - 1) + 1)
    for i in range(size)
  ]
  return np.array(list(dict.fromkeys(ahead)))


def penalized(
  scores: Float[np.ndarray, "P K"],
  tokens: Shaped[np.ndarray, "P K"],
  weight: float,
) -> Float[np.ndarray, "P K"]:
  """Returns score - weight * tokens, a length penalty on selection.

  The authors' code of arXiv:2405.07863 counts characters.
  """
  return scores - weight * tokens


def mean_wins(
  win_probs: Float[np.ndarray, "P K K"],
) -> Float[np.ndarray, "P K"]:
  """Returns the mean probability of beating the others: [P, K, K] -> [P, K].

  Args:
    win_probs: P(row beats column); the diagonal is ignored.
  """
  count = win_probs.shape[1]
  others = ~np.eye(count, dtype=bool)
  return np.where(others, win_probs, 0.0).sum(axis=2) / (count - 1)


def weights(
  margins: Float[np.ndarray, " B"], kind: str, generator: np.random.Generator
) -> Float[np.ndarray, " B"]:
  """Returns weights of pairs by a model's margin, with mean 1: [B] -> [B].

      margin    `ops.preference.margin_weights`, RDO's (arXiv:2408.09385)
      shuffled  the same weights permuted over pairs: a control
      top       1 for the half with the largest margins: a control

  Args:
    margins: reward of the labelled winner minus that of the loser.
    kind: one of WEIGHTS.
    generator: of the permutation.

  Raises:
    ValueError: unknown kind.
  """
  if kind not in WEIGHTS:
    raise ValueError(f"weights are {kind!r}; use one of {WEIGHTS}")
  if kind == "top":
    top = (margins >= np.median(margins)).astype(np.float32)
    return top / top.mean()
  found = np.asarray(preference.margin_weights(margins))
  return generator.permutation(found) if kind == "shuffled" else found
