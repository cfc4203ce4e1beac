# SPDX-License-Identifier: Apache-2.0
"""Trained reward models as `Scorer`s: (params, prompts, responses) -> [B]."""

from __future__ import annotations

from typing import Any

import jax

from rlaif_jax.core import batches
from rlaif_jax.core import protocols
from rlaif_jax.engine import scoring


def reward_scorer(
  model: protocols.ScalarModel,
) -> protocols.Scorer:
  """The scalar at the last real token of prompt + response.

  `params` is {"model": parameters, "shift": [], "scale": []}: the reward is
  (r - shift) / scale. The paper gives no normalisation; shift and scale are
  the mean and standard deviation over the SFT policy's own samples (0 and 1
  leave the reward as it is), which sets the unit in which beta weighs the KL.
  """

  def score(
    params: Any,
    prompts: batches.PromptBatch,
    response: jax.Array,
    mask: jax.Array,
  ) -> jax.Array:
    joined = scoring.join(prompts, response, mask)
    raw = model.last(params["model"], joined.tokens, joined.valid)
    return (raw - params["shift"]) / params["scale"]

  return score
