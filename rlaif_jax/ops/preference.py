# SPDX-License-Identifier: Apache-2.0
"""Losses of pairs as functions of a margin."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def pair_logistic(
  margin: Float[Array, " B"],
  label: Float[Array, " B"],
  *,
  label_smoothing: float = 0.0,
) -> Float[Array, " B"]:
  """Returns the cross-entropy of sigmoid(margin) with a soft label.

      - p log sigmoid(m) - (1 - p) log sigmoid(-m)

  With margin r1 - r2 it is the paper's loss: softmax of two rewards against
  the AI label (section 2.2.1). p = 1 gives Bradley-Terry.

  Args:
    margin: [B].
    label: [B] in [0, 1].
    label_smoothing: weight of 1/2 in the mixed label; not in the paper.

  Returns:
    [B] float32.
  """
  margin = margin.astype(jnp.float32)
  p = label * (1.0 - label_smoothing) + 0.5 * label_smoothing
  return -p * jax.nn.log_sigmoid(margin) - (1.0 - p) * jax.nn.log_sigmoid(
    -margin
  )


def pair_squared(
  margin: Float[Array, " B"], label: Float[Array, " B"], *, target: float
) -> Float[Array, " B"]:
  """Returns the squared distance of the margin from +target or -target.

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


def pair_hinge(
  margin: Float[Array, " B"], label: Float[Array, " B"]
) -> Float[Array, " B"]:
  """Returns the hinge loss, in expectation over a soft label.

      p max(0, -m) + (1 - p) max(0, m)

  With margin = difference of mean log-probs per token it is RRHF's ranking loss
  (arXiv:2304.05302, eq. 2).

  Args:
    margin: [B].
    label: [B] in [0, 1].

  Returns:
    [B] float32.
  """
  margin = margin.astype(jnp.float32)
  return label * jax.nn.relu(-margin) + (1.0 - label) * jax.nn.relu(margin)


def kto(
  reward: Float[Array, "*pairs"],
  desired: Float[Array, "*pairs"],
  reference_point: Float[Array, "*points"],
) -> Float[Array, "*pairs"]:
  """Returns one minus the value of single responses (arXiv:2402.01306, eq. 8).

      d (1 - sigmoid(r - z)) + (1 - d) (1 - sigmoid(z - r))

  Both kinds have weight 1 (lambda).

  Args:
    reward: [B] beta log pi / ref of each response.
    desired: [B] in [0, 1].
    reference_point: [] or [1, ...] z, without gradient.

  Returns:
    [B] float32.
  """
  margin = reward.astype(jnp.float32) - jax.lax.stop_gradient(reference_point)
  return desired * jax.nn.sigmoid(-margin) + (1.0 - desired) * jax.nn.sigmoid(
    margin
  )


def margin_weights(
  margin: Float[Array, " B"], *, quantile: float = 0.95
) -> Float[Array, " B"]:
  """Returns RDO's weights of pairs, with mean 1 (arXiv:2408.09385).

  The weight is proportional to the margin of the labelled winner, 0 where the
  model disagrees with the label, and clipped at a quantile so that no pair
  dominates its batch. The mean of 1 removes the scale of the reward, which is
  arbitrary, from the learning rate.

  Args:
    margin: [B] reward of the winner minus that of the loser.
    quantile: of the positive parts, in (0, 1].

  Returns:
    [B]; all ones if no margin is positive.
  """
  positive = jax.nn.relu(margin.astype(jnp.float32))
  cut = jnp.minimum(positive, jnp.quantile(positive, quantile))
  cut = jnp.where(jnp.any(cut > 0), cut, positive)
  mean = jnp.mean(cut)
  return jnp.where(mean > 0, cut / jnp.where(mean > 0, mean, 1.0), 1.0)
