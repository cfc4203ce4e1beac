# SPDX-License-Identifier: Apache-2.0
"""Other losses of a policy on pairs: RRHF, KTO, and imitation.

All of them multiply by `pairs.weight`; RDO is any loss here or in `dpo.model`
with weights from `ops.preference.margin_weights`.
"""

from __future__ import annotations

from typing import Callable

import jax
import jax.numpy as jnp

from rlaif_jax.core import batches
from rlaif_jax.core import masked
from rlaif_jax.core import protocols
from rlaif_jax.engine import scoring
from rlaif_jax.ops import pair_accuracy
from rlaif_jax.ops import preference


def make_rrhf_loss(
  model: protocols.LanguageModel, *, imitation: float = 1.0
) -> protocols.LossFn:
  """Returns the RRHF LossFn over pairs: a ranking hinge plus imitation.

  arXiv:2304.05302, eqs. 2 to 4: a hinge on the mean log-probs per token, plus
  `imitation` times the negative log-prob (a sum) of the preferred response. The
  reference is not used.
  """

  def loss(params: protocols.Params, pairs: batches.PairBatch, key: jax.Array):
    del key
    first, second = scoring.pair_log_probs(model, params, pairs)
    first_tokens, second_tokens = scoring.pair_counts(pairs)
    margin = first / first_tokens - second / second_tokens
    chosen = jnp.where(pairs.label > 0.5, first, second)
    terms = preference.pair_hinge(margin, pairs.label) - imitation * chosen
    return masked.weighted_sum(terms, pairs.weight), {
      "accuracy": masked.weighted_sum(
        pair_accuracy.correct(margin, pairs.label), pairs.weight
      ),
      "chosen_log_prob": masked.weighted_sum(chosen, pairs.weight),
    }

  return loss


def _log_ratios(model, params, pairs: batches.PairBatch) -> jax.Array:
  """Returns log pi / ref of both responses, [2, *pairs]; 0 where unused."""
  both = jnp.stack(scoring.pair_log_probs(model, params, pairs))
  ratios = both - jnp.moveaxis(pairs.ref_log_probs, -1, 0)
  return jnp.where(pairs.weight > 0, ratios, 0.0)


def make_kto_prepare(
  model: protocols.LanguageModel, *, microbatches: int = 1
) -> Callable[[protocols.Params, batches.PairBatch], batches.PairBatch]:
  """Returns prepare(params, pairs), which adds KTO's reference point.

  It is the mean log-ratio of all responses of the batch, at least 0, so it
  does not depend on how the batch is divided. Departure from KTO
  (arXiv:2402.01306, section 3.2), which estimates KL(policy || reference) from
  prompts with the responses of others.

  Args:
    model: functions of the policy.
    microbatches: parts that are computed one after another.
  """

  def prepare(params: protocols.Params, pairs: batches.PairBatch):
    parts = jax.tree.map(
      lambda x: x.reshape(microbatches, -1, *x.shape[1:]), pairs
    )

    def total(part):
      mean = jnp.mean(_log_ratios(model, params, part), axis=0)
      return masked.weighted_sum(mean, part.weight)

    sums = jax.lax.map(total, parts)
    point = jax.tree.map(jnp.sum, sums).mean()
    point = jnp.full_like(pairs.weight, jnp.maximum(point, 0.0))
    return pairs.replace(reference_point=jax.lax.stop_gradient(point))

  return prepare


def make_kto_loss(
  model: protocols.LanguageModel, *, beta: float
) -> protocols.LossFn:
  """Returns the KTO LossFn, which scores each response on its own.

  arXiv:2402.01306, eq. 8: the preferred response is desirable, the other one is
  not, and both have the weight 1. The pairs have the reference point of
  `make_kto_prepare`.
  """

  def loss(params: protocols.Params, pairs: batches.PairBatch, key: jax.Array):
    del key
    ratios = _log_ratios(model, params, pairs)
    desired = jnp.stack([pairs.label, 1.0 - pairs.label])
    point = pairs.reference_point
    terms = preference.kto(beta * ratios, desired, beta * point[None])
    margin = ratios[0] - ratios[1]
    return masked.weighted_sum(jnp.sum(terms, axis=0), pairs.weight), {
      "accuracy": masked.weighted_sum(
        pair_accuracy.correct(margin, pairs.label), pairs.weight
      ),
      "reference_point": masked.weighted_sum(point, pairs.weight),
    }

  return loss


def make_imitation_loss(model: protocols.LanguageModel) -> protocols.LossFn:
  """Returns the LossFn of SFT on the preferred responses alone."""

  def loss(params: protocols.Params, pairs: batches.PairBatch, key: jax.Array):
    del key
    first, second = scoring.pair_log_probs(model, params, pairs)
    chosen = jnp.where(pairs.label > 0.5, first, second)
    return masked.weighted_sum(-chosen, pairs.weight), {}

  return loss
