# SPDX-License-Identifier: Apache-2.0
"""Difference models: score how much better one response is than another.

RDO's difference model (arXiv:2408.09385) and, through a sigmoid, the pairwise
preference model of RLHF Workflow (arXiv:2405.07863): a scalar model over
prompt, first response and second response.
"""

from __future__ import annotations


import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlaif_jax.core import batches
from rlaif_jax.core import masked
from rlaif_jax.core import protocols
from rlaif_jax.ops import pair_accuracy
from rlaif_jax.ops import preference


def together(
  first: batches.TokenBatch, second: batches.TokenBatch
) -> batches.TokenBatch:
  """Returns prompt + first + second; the first one's end token separates them.

  Args:
    first: [B, P + R].
    second: [B, P + R], with the same prompts.

  Returns:
    [B, P + 2 R].
  """
  length = second.weights.shape[1]
  return batches.TokenBatch(
    tokens=jnp.concatenate([first.tokens, second.tokens[:, -length:]], axis=1),
    valid=jnp.concatenate([first.valid, second.valid[:, -length:]], axis=1),
    weights=second.weights,
  )


def both_orders(
  model: protocols.ScalarModel,
  params: protocols.Params,
  first: batches.TokenBatch,
  second: batches.TokenBatch,
) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
  """Returns the outputs d(first, second) and d(second, first): [B], [B]."""
  rows = jax.tree.map(
    lambda a, b: jnp.concatenate([a, b]),
    together(first, second),
    together(second, first),
  )
  forward, backward = jnp.split(model.last(params, rows), 2)
  return forward, backward


def difference(
  model: protocols.ScalarModel,
  params: protocols.Params,
  first: batches.TokenBatch,
  second: batches.TokenBatch,
) -> Float[Array, " B"]:
  """Returns (d(a, b) - d(b, a)) / 2 [B], the margin of the first response.

  It is antisymmetric by construction, so it has no position bias.
  """
  forward, backward = both_orders(model, params, first, second)
  return 0.5 * (forward - backward)


def make_loss(model: protocols.ScalarModel) -> protocols.LossFn:
  """Returns the LossFn over PairBatch: Bradley-Terry in both orders.

      - log sigmoid(d(x, y1, y2)) - log sigmoid(-d(x, y2, y1)), halved

  for the label 1, and its expectation for soft ones.
  """

  def loss(params: protocols.Params, pairs: batches.PairBatch, key: jax.Array):
    del key  # Nothing is drawn.
    forward, backward = both_orders(model, params, pairs.first, pairs.second)
    terms = preference.pair_logistic(forward, pairs.label)
    terms += preference.pair_logistic(-backward, pairs.label)
    margin = 0.5 * (forward - backward)
    return masked.weighted_sum(0.5 * terms, pairs.weight), {
      "accuracy": masked.weighted_sum(
        pair_accuracy.correct(margin, pairs.label), pairs.weight
      ),
      # 0 for a model without position bias.
      "position": masked.weighted_sum(
        jnp.abs(forward + backward), pairs.weight
      ),
    }

  return loss
