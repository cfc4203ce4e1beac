# SPDX-License-Identifier: Apache-2.0
"""Streams differ by name and step, and are the same everywhere."""

from __future__ import annotations

import jax
import numpy as np

from rlaif_jax.core import rng


def test_keys_are_functions_of_seed_name_and_step():
  keys = [
    rng.key(0, "a", 0),
    rng.key(1, "a", 0),
    rng.key(0, "b", 0),
    rng.key(0, "a", 1),
  ]
  data = {tuple(np.asarray(jax.random.key_data(k))) for k in keys}
  assert len(data) == 4
  same = jax.jit(lambda step: jax.random.key_data(rng.key(0, "a", step)))(1)
  np.testing.assert_array_equal(same, jax.random.key_data(keys[3]))


def test_numpy_streams_likewise():
  def draw(*arguments):
    return tuple(rng.numpy_generator(*arguments).integers(0, 1000, 4))

  first, again = (draw(0, "a", 0) for _ in range(2))
  assert first == again
  assert len({draw(0, "a", 0), draw(1, "a", 0), draw(0, "b", 0)}) == 3
