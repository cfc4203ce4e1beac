# SPDX-License-Identifier: Apache-2.0
"""Other losses of a policy on pairs: RRHF, a KTO variant, and imitation.

All of them multiply by `pairs.weight`; RDO is any loss here or in `dpo.model`
with weights from `ops.preference.margin_weights`.
"""

from __future__ import annotations


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
    counts = jnp.sum(pairs.texts.response_valid, axis=2).astype(jnp.float32)
    counts = jnp.maximum(counts, 1.0)
    margin = first / counts[:, 0] - second / counts[:, 1]
    chosen = jnp.where(pairs.label > 0.5, first, second)
    terms = preference.pair_hinge(margin, pairs.label) - imitation * chosen
    return masked.weighted_sum(terms, pairs.weight), {
      "accuracy": masked.weighted_sum(
        pair_accuracy.correct(margin, pairs.label), pairs.weight
      ),
      "chosen_log_prob": masked.weighted_sum(chosen, pairs.weight),
    }

  return loss


def make_kto_loss(
  model: protocols.LanguageModel, *, beta: float
) -> protocols.LossFn:
  """Returns a KTO-like LossFn, which scores each response on its own.

  The preferred response is desirable, the other one is not. Departure from KTO:
  its reference point estimates KL(policy || reference) from mismatched prompts
  and responses; here it is the mean log-ratio of the batch, at least 0.
  """

  def loss(params: protocols.Params, pairs: batches.PairBatch, key: jax.Array):
    del key
    first, second = scoring.pair_log_probs(model, params, pairs)
    ref_first, ref_second = jnp.moveaxis(pairs.ref_log_probs, -1, 0)
    ratios = jnp.stack([first - ref_first, second - ref_second])
    ratios = jnp.where(pairs.weight > 0, ratios, 0.0)
    point = jnp.maximum(
      masked.masked_mean(jnp.mean(ratios, axis=0), pairs.weight), 0.0
    )
    desired = jnp.stack([pairs.label, 1.0 - pairs.label])
    terms = preference.kto(beta * ratios, desired, beta * point)
    margin = ratios[0] - ratios[1]
    return masked.weighted_sum(jnp.sum(terms, axis=0), pairs.weight), {
      "accuracy": masked.weighted_sum(
        pair_accuracy.correct(margin, pairs.label), pairs.weight
      )
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
