# SPDX-License-Identifier: Apache-2.0
"""The reward model's loss: cross-entropy of soft labels on reward margins.

The formula is `ops.preference.pair_logistic`.
"""

from __future__ import annotations

from typing import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlaif_jax.core import batches
from rlaif_jax.core import masked
from rlaif_jax.core import protocols
from rlaif_jax.engine import scoring
from rlaif_jax.ops import pair_accuracy
from rlaif_jax.ops import preference


def pair_rewards(
  model: protocols.ScalarModel,
  params: protocols.Params,
  pairs: batches.PairBatch,
) -> tuple[Float[Array, "*pairs"], Float[Array, "*pairs"]]:
  """Returns the rewards of both responses, each in the shape of the label.

  One forward pass reads each prompt once.
  """
  rewards = model.last(params, pairs.texts)
  return scoring.split_pairs(rewards, pairs.label)


def make_loss(
  model: protocols.ScalarModel,
  *,
  label_smoothing: float = 0.0,
  pair_loss: Callable[..., Array] = preference.pair_logistic,
) -> protocols.LossFn:
  """Returns the LossFn over pairs (paper, section 2.2.1 and appendix A.2).

      - p log sigmoid(r1 - r2) - (1 - p) log sigmoid(r2 - r1)

  With p in {0, 1} this is the Bradley-Terry loss of human labels.

  Args:
    model: scalar model; the reward is the scalar at the last real token.
    label_smoothing: not in the paper; see `preference.pair_logistic`.
    pair_loss: (margin [pairs], label [pairs], label_smoothing=) -> [pairs].
  """

  def loss(
    params: protocols.Params,
    pairs: batches.PairBatch,
    key: jax.Array,
  ) -> tuple[masked.WeightedSum, Mapping[str, masked.WeightedSum]]:
    del key
    first, second = pair_rewards(model, params, pairs)
    margin = first - second
    terms = pair_loss(margin, pairs.label, label_smoothing=label_smoothing)
    correct = pair_accuracy.correct(margin, pairs.label)
    return masked.weighted_sum(terms, pairs.weight), {
      "accuracy": masked.weighted_sum(correct, pairs.weight),
      "abs_margin": masked.weighted_sum(jnp.abs(margin), pairs.weight),
      "reward": masked.weighted_sum((first + second) / 2, pairs.weight),
    }

  return loss
