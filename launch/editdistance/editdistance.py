# SPDX-License-Identifier: Apache-2.0
"""Stand-in for the package `editdistance` where it has no wheel.

seqio requires that package, for the names that it suggests after a spelling
mistake. The package is C++ and has no wheel for Python 3.13, so that pip would
need a compiler. These are its functions, in Python.
"""

from __future__ import annotations

from typing import Hashable, Sequence


def eval(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
  """Returns Levenshtein's distance of two sequences.

  It is the smallest number of insertions, deletions and substitutions that make
  one of the other (Levenshtein 1966).
  """
  row = list(range(len(b) + 1))
  for i, x in enumerate(a, start=1):
    before, row[0] = row[0], i
    for j, y in enumerate(b, start=1):
      cost = min(before + (x != y), row[j] + 1, row[j - 1] + 1)
      before, row[j] = row[j], cost
  return row[-1]


def eval_criterion(
  a: Sequence[Hashable], b: Sequence[Hashable], threshold: int
) -> bool:
  """Returns whether the distance is at most the threshold."""
  return eval(a, b) <= threshold


distance = eval
distance_le_than = eval_criterion
