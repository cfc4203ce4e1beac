# SPDX-License-Identifier: Apache-2.0
"""Rewards as `Scorer`s: (params, prompts, response, mask) -> [B, N]."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax

from rlaif_jax.core import batches
from rlaif_jax.core import protocols
from rlaif_jax.engine import scoring


def reward_scorer(model: protocols.ScalarModel) -> protocols.Scorer:
  """The reward model's scalar at the last real token of prompt + response.

  `params` are the reward model's. A response's end token is part of what it
  reads, as in its training.
  """

  def score(
    params: Any,
    prompts: batches.PromptBatch,
    response: jax.Array,
    mask: jax.Array,
  ) -> jax.Array:
    group = scoring.join_groups(prompts, response, mask)
    return model.last(params, group)

  return score


@flax.struct.dataclass
class Standardized:
  """Parameters of a scorer with the unit of its reward."""

  params: Any
  shift: jax.Array
  scale: jax.Array


def standardized(scorer: protocols.Scorer) -> protocols.Scorer:
  """(reward - shift) / scale, with `Standardized` parameters.

  Not in the paper, which gives no normalisation: it sets the unit in which
  beta weighs the KL. Preferences determine a reward up to a shift anyway.
  """

  def score(
    params: Standardized,
    prompts: batches.PromptBatch,
    response: jax.Array,
    mask: jax.Array,
  ) -> jax.Array:
    raw = scorer(params.params, prompts, response, mask)
    return (raw - params.shift) / params.scale

  return score
