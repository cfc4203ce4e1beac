# SPDX-License-Identifier: Apache-2.0
"""The loss of supervised fine-tuning."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float

from rlaif_jax.core import batches
from rlaif_jax.core import masked
from rlaif_jax.core import protocols
from rlaif_jax.engine import scoring


def make_loss(
  model: protocols.LanguageModel, context_weight: float = 0.0
) -> protocols.LossFn:
  """Returns the mean negative log-likelihood of response tokens, in nats.

  Args:
    model: functions of the language model that is trained.
    context_weight: loss weight of each context token; above 0 the model is
      also trained to predict the context.
  """

  def loss(params, batch, key):
    del key  # No dropout.
    whole = batch.replace(weights=full_weights(batch, context_weight))
    log_probs = scoring.response_log_probs(model, params, whole)
    response = log_probs[:, -batch.weights.shape[1] :]
    nll = masked.weighted_sum(-response, batch.weights)
    total = masked.weighted_sum(-log_probs, whole.weights)
    return total, {"response_nll": nll}

  def response_loss(params, batch, key):
    del key  # No dropout.
    log_probs = scoring.response_log_probs(model, params, batch)
    nll = masked.weighted_sum(-log_probs, batch.weights)
    return nll, {"response_nll": nll}

  return loss if context_weight > 0 else response_loss


def full_weights(
  batch: batches.TokenBatch, context_weight: float
) -> Float[jax.Array, "batch targets"]:
  """Returns loss weights [B, L - 1] of all columns but the first, as targets.

  A prompt's first token (bos) is not a target.
  """
  response_length = batch.weights.shape[1]
  prompt = (
    batch.valid[:, 1:-response_length] & batch.valid[:, : -response_length - 1]
  )
  return jnp.concatenate(
    [context_weight * prompt.astype(jnp.float32), batch.weights], axis=1
  )
