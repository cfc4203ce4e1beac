# SPDX-License-Identifier: Apache-2.0
"""Correctness of pairwise predictions, for NumPy and JAX arrays."""

from __future__ import annotations

from typing import TypeVar

ArrayT = TypeVar("ArrayT")


def correct(margin: ArrayT, label: ArrayT) -> ArrayT:
  """Returns 1 where margin and label prefer the same, 0.5 for ties: [B].

  Args:
    margin: [B] score of the first minus that of the second; 0 is a tie. For a
      probability p, the margin is p - 0.5.
    label: [B] P(first is better); 0.5 is a tie.
  """
  tie = (margin == 0) | (label == 0.5)
  agree = (margin > 0) == (label > 0.5)
  return 0.5 * tie + 1.0 * (~tie & agree)
