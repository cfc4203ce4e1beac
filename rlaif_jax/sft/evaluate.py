# SPDX-License-Identifier: Apache-2.0
"""Validation loss over all held-out rows."""

from __future__ import annotations

from typing import Callable

import jax
import jax.numpy as jnp

from rlaif_jax.core import batches
from rlaif_jax.core import protocols
from rlaif_jax.data import converters


def make_evaluate(
  loss: protocols.LossFn, arrays: batches.TokenBatch, batch_size: int
) -> Callable[[protocols.Params], dict[str, float]]:
  """Returns evaluate(params) -> mean metrics over all rows.

  Args:
    loss: loss without random numbers; its metrics are averaged.
    arrays: held-out rows.
    batch_size: rows per device call.
  """
  num_rows = arrays.tokens.shape[0]
  jitted = jax.jit(loss)

  def evaluate(params):
    total = None
    for rows, real in converters.chunks(num_rows, batch_size):
      part = converters.take(arrays, rows)
      keep = (jnp.arange(len(rows)) < real)[:, None]
      part = part.replace(weights=part.weights * keep)
      metrics = jitted(params, part, jax.random.key(0))[1]
      total = (
        metrics if total is None else jax.tree.map(jnp.add, total, metrics)
      )
    return {f"validation_{k}": float(v.mean()) for k, v in total.items()}

  return evaluate
