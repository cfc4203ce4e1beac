# SPDX-License-Identifier: Apache-2.0
"""Grouped heads by hand; chunked attention against the plain form."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from rlaif_jax.models import attention
from rlaif_jax.models import layouts


def test_attend_against_loops():
  keys = jax.random.split(jax.random.key(0), 3)
  query = jax.random.normal(keys[0], (1, 3, 4, 2))
  key = jax.random.normal(keys[1], (1, 2, 3, 2))
  value = jax.random.normal(keys[2], (1, 2, 3, 2))
  mask = layouts.causal_layout(jnp.array([[1, 0, 1]], bool)).mask
  result = np.asarray(attention.attend(query, key, value, mask))
  for i in range(3):
    for head in range(4):
      group = head // 2
      scores = np.array(
        [
          float(query[0, i, head] @ key[0, group, j]) / np.sqrt(2)
          if mask[0, i, j]
          else -np.inf
          for j in range(3)
        ]
      )
      weights = np.exp(scores - scores.max())
      weights /= weights.sum()
      expected = weights @ np.asarray(value[0, group])
      np.testing.assert_allclose(result[0, i, head], expected, rtol=1e-4)
