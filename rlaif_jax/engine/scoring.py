# SPDX-License-Identifier: Apache-2.0
"""Log-probs of given continuations. Logits exist only where they are read."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from rlaif_jax.core import batches
from rlaif_jax.core import protocols
from rlaif_jax.ops import logprobs


def response_logits(
  model: protocols.LanguageModel, params: Any, batch: batches.TokenBatch
) -> jax.Array:
  """Logits [B, R, V] that predict the last R columns of the batch."""
  return model.logits(params, model.hidden(params, batch))


def response_log_probs(
  model: protocols.LanguageModel,
  params: Any,
  batch: batches.TokenBatch,
  *,
  temperature: float = 1.0,
) -> jax.Array:
  """Float32 log-probs [B, R] of the responses under softmax(logits / T)."""
  response_length = batch.weights.shape[1]
  logits = response_logits(model, params, batch)
  return logprobs.token_log_probs(
    logits, batch.tokens[:, -response_length:], temperature=temperature
  )


def join(
  prompts: batches.PromptBatch, response: jax.Array, mask: jax.Array
) -> batches.TokenBatch:
  """Prompts [B, P] and responses [B, R] as one TokenBatch [B, P + R]."""
  return batches.TokenBatch(
    tokens=jnp.concatenate([prompts.prompt, response], axis=1),
    valid=jnp.concatenate([prompts.prompt_valid, mask > 0], axis=1),
    weights=mask.astype(jnp.float32),
  )


def option_log_probs(
  model: protocols.LanguageModel,
  params: Any,
  tokens: jax.Array,
  valid: jax.Array,
  options: tuple[tuple[int, ...], ...],
) -> jax.Array:
  """Log-prob of each whole option right after each prompt.

  The prompt is read once. Options of one token need nothing more; a longer
  one needs one more short read per distinct proper prefix ("10" after "1").

  Args:
    model: functions of the language model.
    params: its parameters.
    tokens: [B, L] prompts, any padding.
    valid: [B, L] bool.
    options: token ids of each option, static under jit.

  Returns:
    [B, len(options)] float32; option "1" includes the mass of "10".
  """
  if not all(options):
    raise ValueError(f"options are {options}; every option needs a token")
  longest = max(len(option) for option in options)
  hidden, cache = model.prefill(params, tokens, valid, longest - 1)
  after = {(): jax.nn.log_softmax(model.logits(params, hidden), axis=-1)}
  prefixes = {option[:j] for option in options for j in range(1, len(option))}
  for prefix in sorted(prefixes):
    shape = (tokens.shape[0], len(prefix))
    ids = jnp.broadcast_to(jnp.asarray(prefix, jnp.int32)[None], shape)
    hidden, _ = model.extend(params, ids, jnp.ones(shape, bool), cache)
    after[prefix] = jax.nn.log_softmax(
      model.logits(params, hidden[:, -1]), axis=-1
    )
  sums = [
    sum(after[option[:j]][:, option[j]] for j in range(len(option)))
    for option in options
  ]
  return jnp.stack(sums, axis=1)
