# SPDX-License-Identifier: Apache-2.0
"""Head-to-head win rates with intervals, and with length taken out."""

from __future__ import annotations

import dataclasses
from typing import Mapping, Sequence

import numpy as np

from rlaif_jax.ops import statistics


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
  """A against B on the same contexts.

  win_rate: share of contexts on which A scores higher, ties half.
  length_controlled: the same at equal length, by the paper's regression on
  the ratio of lengths (its appendix J). log_length_controlled: on the log of
  the ratio, which is symmetric in A and B (Stiennon et al. 2020).
  """

  a: str
  b: str
  win_rate: statistics.Estimate
  ties: int
  length_controlled: statistics.Estimate
  log_length_controlled: statistics.Estimate
  length_ratio: float


def wins(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """1 where a is higher, 0.5 where equal, 0 where lower."""
  return np.where(a == b, 0.5, (a > b).astype(float))


def compare(
  names: tuple[str, str],
  scores: tuple[np.ndarray, np.ndarray],
  lengths: tuple[np.ndarray, np.ndarray],
) -> Comparison:
  """Compares two policies on the same contexts, in the same order.

  Args:
    names: of A and B.
    scores: judge's scores of both, [n] each.
    lengths: of the responses in characters, [n] each.

  Raises:
    ValueError: the arrays differ in length or are empty.
  """
  sizes = {len(x) for x in (*scores, *lengths)}
  if len(sizes) != 1 or 0 in sizes:
    raise ValueError(
      f"{names[0]} and {names[1]} have {sorted(sizes)} responses; both must "
      "answer the same contexts, at least one"
    )
  won = wins(np.asarray(scores[0]), np.asarray(scores[1]))
  # An empty response counts as one character, so that a ratio exists.
  length_a, length_b = (np.maximum(np.asarray(x), 1.0) for x in lengths)
  ratio = length_a / length_b
  n = len(won)

  def controlled(feature: np.ndarray, at: float) -> statistics.Estimate:
    return statistics.fit_logistic(feature[:, None], won).at([at], n)

  return Comparison(
    a=names[0],
    b=names[1],
    win_rate=statistics.wilson(float(won.sum()), n),
    ties=int((won == 0.5).sum()),
    length_controlled=controlled(ratio, 1.0),
    log_length_controlled=controlled(np.log(ratio), 0.0),
    length_ratio=float(length_a.mean() / length_b.mean()),
  )


def matrix(
  scores: Mapping[str, np.ndarray], lengths: Mapping[str, np.ndarray]
) -> list[Comparison]:
  """All pairs of policies, each once, in the order of `scores`."""
  names = list(scores)
  return [
    compare((a, b), (scores[a], scores[b]), (lengths[a], lengths[b]))
    for i, a in enumerate(names)
    for b in names[i + 1 :]
  ]


def harmless_rate(is_harmless: Sequence[bool]) -> statistics.Estimate:
  """Share of responses judged harmless, each on its own (paper 2.3)."""
  values = np.asarray(is_harmless, float)
  return statistics.wilson(float(values.sum()), len(values))
