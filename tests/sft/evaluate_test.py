# SPDX-License-Identifier: Apache-2.0
"""The validation loss is the mean over tokens, whatever the batch size."""

from __future__ import annotations

import numpy as np
import pytest

from rlaif_jax.core import batches
from rlaif_jax.core import masked
from rlaif_jax.sft import evaluate


def test_rows_that_fill_the_last_batch_do_not_count():
  weights = np.float32([[1, 1], [1, 0], [1, 1]])
  arrays = batches.TokenBatch(
    tokens=np.int32([[0, 1, 2], [0, 3, 9], [0, 5, 6]]),
    valid=np.ones((3, 3), bool),
    weights=weights,
  )

  def loss(params, batch, key):
    del key
    total = masked.weighted_sum(params * batch.tokens[:, 1:], batch.weights)
    return total, {"loss": total}

  for batch_size in (1, 2, 3, 8):
    measure = evaluate.make_evaluate(loss, arrays, batch_size)
    found = measure(2.0)
    assert found == {
      "validation_loss": pytest.approx(2 * (1 + 2 + 3 + 5 + 6) / 5)
    }
