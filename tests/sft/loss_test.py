# SPDX-License-Identifier: Apache-2.0
"""SFT's loss counts the tokens that it should."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from rlaif_jax.core import batches
from rlaif_jax.sft import loss


def test_context_weights_leave_out_padding_and_the_first_token():
  batch = batches.TokenBatch(
    tokens=jnp.zeros((1, 6), jnp.int32),
    valid=jnp.array([[0, 1, 1, 1, 1, 0]], bool),
    weights=jnp.array([[1.0, 0.0]]),
  )
  weights = loss.full_weights(batch, 0.5)
  np.testing.assert_array_equal(weights, [[0, 0.5, 0.5, 1.0, 0.0]])
