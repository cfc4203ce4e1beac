# SPDX-License-Identifier: Apache-2.0
"""Direct RLAIF: the labeler's expected 1..10 score as a reward on the device.

The labeler's prompt is put together from token segments around the sampled
response inside the jitted program, so no token leaves the device.
"""

from __future__ import annotations

from typing import Any, Sequence

import jax
import jax.numpy as jnp

from rlaif_jax.core import batches
from rlaif_jax.core import protocols
from rlaif_jax.engine import scoring
from rlaif_jax.labeling import rating


def direct_scorer(
  model: protocols.LanguageModel,
  tokenizer: protocols.Tokenizer,
  *,
  parts: tuple[str, str, str],
  options: Sequence[str],
  chat: tuple[str, str] = ("", ""),
) -> protocols.Scorer:
  """(score - 5.5) / 4.5 in [-1, 1] of each response (paper section 2.2.2).

  The prompt is bos + parts[0] + context + parts[1] + response + parts[2],
  where the parts meet the texts at newlines, so that the segments' tokens are
  the whole text's. It holds for a labeler with the policy's vocabulary; a
  labeler with another one reads text, through `responses.rate`.

  Args:
    model: functions of the labeler. The Scorer's params are its parameters.
    tokenizer: of both policy and labeler.
    parts: constant texts, from `prompts.Template.pointwise_parts`.
    options: the ten score strings.
    chat: text before and after a user message, of an instruct labeler.
  """
  begin = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
  before, between, after = (tuple(tokenizer.encode(part)) for part in parts)
  before = (*begin, *tokenizer.encode(chat[0]), *before)
  after = (*after, *tokenizer.encode(chat[1]))
  option_ids = tuple(tuple(tokenizer.encode(option)) for option in options)
  prefix_of = rating.prefix_options(options, tokenizer)
  eos_ids = jnp.asarray(tokenizer.eos_ids)

  def score(
    params: Any,
    prompts: batches.PromptBatch,
    response: jax.Array,
    mask: jax.Array,
  ) -> jax.Array:
    rows = response.shape[0]

    def constant(ids):
      row = jnp.asarray(ids, jnp.int32)[None]
      tokens = jnp.broadcast_to(row, (rows, len(ids)))
      return tokens, jnp.ones((rows, len(ids)), bool)

    segments = [
      constant(before),
      (prompts.context, prompts.context_valid),
      constant(between),
      # The end token is the policy's, not part of the text that is rated.
      (response, (mask > 0) & ~jnp.isin(response, eos_ids)),
      constant(after),
    ]
    tokens = jnp.concatenate([t for t, _ in segments], axis=1)
    valid = jnp.concatenate([v for _, v in segments], axis=1)
    log_probs = scoring.option_log_probs(
      model, params, tokens, valid, option_ids
    )
    probabilities = rating.probabilities_from_log_probs(
      log_probs, prefix_of, xp=jnp
    )
    return rating.to_reward(rating.expected_score(probabilities, xp=jnp))

  return score
