# SPDX-License-Identifier: Apache-2.0
"""Log-probs of given continuations. Logits exist only where they are read."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rlaif_jax.core import batches
from rlaif_jax.core import protocols
from rlaif_jax.engine import prefix_sharing
from rlaif_jax.ops import logprobs

# Logits that exist at a time on a device, 256 MiB of them. Fewer make smaller
# products, and as many sums of the head's gradient as there are parts.
LOGITS_AT_ONCE = 2**26


def response_logits(
  model: protocols.LanguageModel,
  params: protocols.Params,
  batch: batches.TokenBatch,
) -> jax.Array:
  """Logits [B, R, V] that predict the last R columns of the batch."""
  return model.logits(params, model.hidden(params, batch))


def response_log_probs(
  model: protocols.LanguageModel,
  params: protocols.Params,
  batch: batches.TokenBatch,
  *,
  temperature: float = 1.0,
) -> jax.Array:
  """Float32 log-probs [B, R] of the responses under softmax(logits / T)."""
  response_length = batch.weights.shape[1]
  return target_log_probs(
    model,
    params,
    model.hidden(params, batch),
    batch.tokens[:, -response_length:],
    temperature=temperature,
  )


def group_log_probs(
  model: protocols.LanguageModel,
  params: protocols.Params,
  batch: batches.GroupBatch,
  *,
  temperature: float = 1.0,
) -> jax.Array:
  """`response_log_probs` [B, G, R], each prompt read once."""
  hidden = model.hidden(params, batch)
  return target_log_probs(
    model, params, hidden, batch.response, temperature=temperature
  )


def target_log_probs(
  model: protocols.LanguageModel,
  params: protocols.Params,
  hidden: jax.Array,
  targets: jax.Array,
  *,
  temperature: float = 1.0,
) -> jax.Array:
  """Float32 log-probs [..., T] of targets after states [..., T, D].

  The more columns and words, the fewer columns at a time: at most about
  LOGITS_AT_ONCE logits exist, whatever the vocabulary. Where that takes
  several parts, the gradient makes each part's logits again.
  """

  def read(part):
    logits = model.logits(params, part[0])
    return logprobs.token_log_probs(logits, part[1], temperature=temperature)

  columns = targets.shape[-1]
  numbers = targets.size * model.vocab_size // model.row_devices
  width = -(-columns // max(1, -(-numbers // LOGITS_AT_ONCE)))
  if width >= columns:
    return read((hidden, targets))
  parts = -(-columns // width)

  def split(x, axis):
    pad = [(0, 0)] * x.ndim
    pad[axis] = (0, parts * width - columns)
    x = jnp.pad(x, pad)
    x = x.reshape(*x.shape[:axis], parts, width, *x.shape[axis + 1 :])
    return jnp.moveaxis(x, axis, 0)

  axis = targets.ndim - 1
  found = jax.lax.map(
    jax.checkpoint(read, prevent_cse=False),
    (split(hidden, axis), split(targets, axis)),
  )
  found = jnp.moveaxis(found, 0, axis)
  return found.reshape(*targets.shape[:-1], -1)[..., :columns]


def pair_log_probs(
  model: protocols.LanguageModel,
  params: protocols.Params,
  pairs: batches.PairBatch,
) -> tuple[jax.Array, jax.Array]:
  """Log-probs of both whole responses, each in the shape of the label.

  Each prompt is read once. Padding has no log-prob.
  """
  texts = pairs.texts
  if not pairs.is_packed:
    log_probs = group_log_probs(model, params, texts)
    sums = logprobs.sequence_log_prob(log_probs, texts.response_valid)
  else:
    hidden = model.hidden(params, texts)
    log_probs = target_log_probs(model, params, hidden, texts.targets)
    responses = jnp.arange(texts.last.shape[1])[None, :, None]
    # [B, M, T]: whether a target is of a response.
    is_own = texts.response_ids[:, None] == responses
    sums = logprobs.sequence_log_prob(log_probs[:, None], is_own)
  return split_pairs(sums, pairs.label)


def split_pairs(
  values: jax.Array, label: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """[B, 2 K] of candidates that alternate -> firsts and seconds like label."""
  return tuple(values[:, i::2].reshape(label.shape) for i in (0, 1))


def join(
  prompts: batches.PromptBatch, response: jax.Array, mask: jax.Array
) -> batches.TokenBatch:
  """Prompts [B, P] and responses [B, R] as one TokenBatch [B, P + R]."""
  return batches.TokenBatch(
    tokens=jnp.concatenate([prompts.prompt, response], axis=1),
    valid=jnp.concatenate([prompts.prompt_valid, mask > 0], axis=1),
    weights=mask.astype(jnp.float32),
  )


def join_groups(
  prompts: batches.PromptBatch, response: jax.Array, mask: jax.Array
) -> batches.GroupBatch:
  """Prompts [B, P] with their responses [B, N, R] as one GroupBatch."""
  return batches.GroupBatch(
    prompt=prompts.prompt,
    prompt_valid=prompts.prompt_valid,
    response=response,
    response_valid=mask > 0,
  )


def option_log_probs(
  model: protocols.LanguageModel,
  params: protocols.Params,
  tokens: jax.Array,
  valid: jax.Array,
  options: tuple[tuple[int, ...], ...],
) -> jax.Array:
  """Returns the log-prob of each whole option after each prompt.

  The prompt is prefilled once. An option of several tokens takes one more
  short decode step per distinct proper prefix ("1" of "10").

  Args:
    model: functions of the language model.
    params: model parameters.
    tokens: [B, L] prompts with any padding.
    valid: [B, L] bool.
    options: token ids of each option, static under jit.

  Returns:
    [B, len(options)] float32. Option "1" includes the mass of "10".

  Raises:
    ValueError: an option has no tokens.
  """
  num_new_tokens = _num_new_tokens(options)
  states, cache = model.prefill(params, tokens, valid, num_new_tokens)
  return _options_after(model, params, states, cache, options)


def shared_option_log_probs(
  model: protocols.LanguageModel,
  params: protocols.Params,
  prefix: protocols.Cache,
  prompts: prefix_sharing.SharedPrompts,
  options: tuple[tuple[int, ...], ...],
) -> jax.Array:
  """Returns `option_log_probs` [B, len(options)] of prompts after `prefix`."""
  states, cache = prefix_sharing.prefill_shared(
    model,
    params,
    prefix,
    prompts,
    _num_new_tokens(options),
    last_only=True,
  )
  return _options_after(model, params, states[:, 0], cache, options, prefix)


def packed_option_log_probs(
  model: protocols.LanguageModel,
  params: protocols.Params,
  prefix: protocols.Cache,
  batch: batches.PackedBatch,
  options: tuple[tuple[int, ...], ...],
) -> jax.Array:
  """Returns `option_log_probs` of packed prompts after `prefix`.

  Args:
    model: functions of a causal language model.
    params: model parameters.
    prefix: cache from `prefix_sharing.prefill_prefix`.
    batch: prompts without the prefix.
    options: token id of each option, one each.

  Returns:
    [B, T, len(options)] float32, T prompts per row.
  """
  states = model.hidden(params, batch, prefix)
  log_probs = jax.nn.log_softmax(model.logits(params, states), axis=-1)
  (ids,) = zip(*options, strict=True)
  return log_probs[..., jnp.asarray(ids)]


def shared_log_likelihoods(
  model: protocols.LanguageModel,
  params: protocols.Params,
  prefix: protocols.Cache,
  prompts: prefix_sharing.SharedPrompts,
  weights: jax.Array,
) -> jax.Array:
  """Returns weighted sums [B] of the log-probs of the suffixes' tokens.

  Args:
    model: functions of a causal language model.
    params: model parameters.
    prefix: cache from `prefix_sharing.prefill_prefix`.
    prompts: prompts without the prefix.
    weights: [B, S] float32; the first column is not read.
  """
  states, _ = prefix_sharing.prefill_shared(model, params, prefix, prompts, 0)
  log_probs = target_log_probs(
    model, params, states[:, :-1], prompts.suffix[:, 1:]
  )
  weights = weights[:, 1:]
  return jnp.sum(jnp.where(weights > 0, log_probs * weights, 0.0), axis=1)


def _num_new_tokens(options: tuple[tuple[int, ...], ...]) -> int:
  """Returns how many tokens are read after the prompt.

  Raises:
    ValueError: an option has no tokens.
  """
  if not all(options):
    raise ValueError(
      f"options are {options}; every option needs at least one token"
    )
  return max(map(len, options)) - 1


def _options_after(model, params, states, cache, options, *prefix) -> jax.Array:
  """Returns [B, len(options)] log-probs after states [B, D] and their cache."""
  after = {(): jax.nn.log_softmax(model.logits(params, states), axis=-1)}
  beginnings = {option[:j] for option in options for j in range(1, len(option))}
  for beginning in sorted(beginnings):
    shape = (states.shape[0], len(beginning))
    ids = jnp.broadcast_to(jnp.asarray(beginning, jnp.int32)[None], shape)
    found, _ = model.decode_step(
      params, ids, jnp.ones(shape, bool), cache, *prefix
    )
    after[beginning] = jax.nn.log_softmax(
      model.logits(params, found[:, -1]), axis=-1
    )
  sums = [
    sum(after[option[:j]][:, option[j]] for j in range(len(option)))
    for option in options
  ]
  return jnp.stack(sums, axis=1)
