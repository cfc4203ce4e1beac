# SPDX-License-Identifier: Apache-2.0
"""Which items share a container: the first that has room for one takes it."""

from __future__ import annotations

from typing import Callable, Iterable

import numpy as np


def first_fit(
  needs: np.ndarray,
  order: Iterable[int],
  room: Callable[[int], Iterable[int]],
) -> list[list[int]]:
  """The items of each container, in the order in which they came.

  Args:
    needs: [N, K] what each item takes of each of K quantities.
    order: of the items; the largest first leaves little room.
    room: item -> [K] what a container has that is opened for it, no less than
      the item needs.
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
