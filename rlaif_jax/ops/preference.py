# SPDX-License-Identifier: Apache-2.0
"""Losses of pairs as functions of a margin; no models here."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def pair_logistic(
  margin: jax.Array, label: jax.Array, *, label_smoothing: float = 0.0
) -> jax.Array:
  """Cross-entropy of P(first is better) = sigmoid(margin) with a soft label.

      - p log sigmoid(m) - (1 - p) log sigmoid(-m)

  With margin r1 - r2 it is the paper's loss: softmax of two rewards against
  the AI label (section 2.2.1). p = 1 gives Bradley-Terry.

  Args:
    margin: [B].
    label: [B] in [0, 1].
    label_smoothing: mixes the label with 1/2 by this share; not in the paper.

  Returns:
    [B] float32.
  """
  margin = margin.astype(jnp.float32)
  p = label * (1.0 - label_smoothing) + 0.5 * label_smoothing
  return -p * jax.nn.log_sigmoid(margin) - (1.0 - p) * jax.nn.log_sigmoid(
    -margin
  )


def pair_squared(
  margin: jax.Array, label: jax.Array, *, target: float
) -> jax.Array:
  """Squared distance of the margin from +target or -target.

      p (m - t)^2 + (1 - p) (m + t)^2

  With margin h = log pi(y1) / ref(y1) - log pi(y2) / ref(y2) and target
  1 / (2 tau) it is IPO's loss for a soft label p (arXiv:2310.12036, eq. 17,
  and its expectation over the label); the minimum is at h = (2 p - 1) t.

  Args:
    margin: [B].
    label: [B] in [0, 1].
    target: > 0.

  Returns:
    [B] float32.
  """
  margin = margin.astype(jnp.float32)
  return label * (margin - target) ** 2 + (1.0 - label) * (margin + target) ** 2


def pair_accuracy(margin: jax.Array, label: jax.Array) -> jax.Array:
  """1 where margin and label prefer the same, 0.5 for a tie of either."""
  agree = ((margin > 0) == (label > 0.5)).astype(jnp.float32)
  return jnp.where((margin == 0) | (label == 0.5), 0.5, agree)
