# SPDX-License-Identifier: Apache-2.0
"""Pairs that agree, differ and tie, in both array libraries."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.ops import pair_accuracy


@pytest.mark.parametrize("library", [np, jnp])
def test_ties_of_margin_or_label_count_half(library):
  margin = library.asarray([2.0, -0.1, 3.0, 0.0, 1.0, 0.0])
  label = library.asarray([1.0, 0.2, 0.4, 1.0, 0.5, 0.5])
  found = pair_accuracy.correct(margin, label)
  np.testing.assert_array_equal(found, [1.0, 1.0, 0.0, 0.5, 0.5, 0.5])


def test_it_runs_under_jit_in_float32():
  found = jax.jit(pair_accuracy.correct)(jnp.ones(3), jnp.zeros(3))
  assert found.dtype == jnp.float32 and not found.any()
