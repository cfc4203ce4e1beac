# SPDX-License-Identifier: Apache-2.0
"""First-fit bin packing with several capacities."""

from __future__ import annotations

from typing import Callable, Iterable

import numpy as np


def first_fit(
  needs: np.ndarray,
  order: Iterable[int],
  room: Callable[[int], Iterable[int]],
) -> list[list[int]]:
  """Assigns each item to the first container that has room for it.

  Args:
    needs: [N, K] amount of each of K quantities that an item takes.
    order: order of the items; the largest first wastes least.
    room: item -> [K] capacity of a new container for it, at least what the
      item needs.

  Returns:
    The items of each container, in the order of assignment.
  """
  containers: list[list[int]] = []
  left = np.zeros((0, needs.shape[1]), int)
  for item in order:
    fits = np.flatnonzero(np.all(left >= needs[item], axis=1))
    if len(fits):
      chosen = fits[0]
    else:
      chosen = len(containers)
      containers.append([])
      left = np.concatenate([left, np.asarray(room(item))[None]])
    containers[chosen].append(int(item))
    left[chosen] -= needs[item]
  return containers
