# SPDX-License-Identifier: Apache-2.0
"""Rewards as `Scorer`s: (params, prompts, response, mask) -> [B, N]."""

from __future__ import annotations


import flax.struct
from jaxtyping import Array, Float, Int

from rlaif_jax.core import batches
from rlaif_jax.core import protocols
from rlaif_jax.engine import scoring


def reward_scorer(model: protocols.ScalarModel) -> protocols.Scorer:
  """Returns the Scorer of a reward model: the scalar at the last token.

  The model reads the response with its end token, as in training.
  """

  def score(
    params: protocols.Params,
    prompts: batches.PromptBatch,
    response: Int[Array, "B N R"],
    mask: Float[Array, "B N R"],
  ) -> Float[Array, "B N"]:
    group = scoring.join_groups(prompts, response, mask)
    return model.last(params, group)

  return score


@flax.struct.dataclass
class Standardized:
  """Parameters of a scorer, and mean and deviation of its reward."""

  params: protocols.Params
  shift: Float[Array, ""]
  scale: Float[Array, ""]


def standardized(scorer: protocols.Scorer) -> protocols.Scorer:
  """Returns the Scorer (reward - shift) / scale of `Standardized` parameters.

  The paper does not normalise. The scale sets the unit in which beta weighs the
  KL; preferences determine a reward only up to a shift.
  """

  def score(
    params: Standardized,
    prompts: batches.PromptBatch,
    response: Int[Array, "B N R"],
    mask: Float[Array, "B N R"],
  ) -> Float[Array, "B N"]:
    raw = scorer(params.params, prompts, response, mask)
    return (raw - params.shift) / params.scale

  return score
