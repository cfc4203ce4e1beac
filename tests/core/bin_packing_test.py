# SPDX-License-Identifier: Apache-2.0
"""First fit: every item once, no container over its room, the first taken."""

from __future__ import annotations

import numpy as np

from rlaif_jax.core import bin_packing


def test_the_first_container_with_room_takes_an_item():
  needs = np.array([[4], [3], [2], [1]])
  assert bin_packing.first_fit(needs, range(4), lambda item: [5]) == [
    [0, 3],
    [1, 2],
  ]


def test_all_quantities_have_to_fit():
  needs = np.array([[1, 2], [1, 2], [1, 1]])
  found = bin_packing.first_fit(needs, range(3), lambda item: [9, 3])
  assert found == [[0, 2], [1]]


def test_a_container_has_the_room_of_its_first_item():
  needs = np.array([[8], [3], [3], [2]])
  found = bin_packing.first_fit(
    needs, range(4), lambda item: [2 * needs[item][0]]
  )
  assert found == [[0, 1, 2, 3]]
  found = bin_packing.first_fit(needs, [3, 2, 1, 0], lambda item: needs[item])
  assert found == [[3], [2], [1], [0]]


def test_none():
  needs = np.zeros((0, 2), int)
  assert bin_packing.first_fit(needs, [], lambda item: [1, 1]) == []
