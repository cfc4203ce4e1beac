# SPDX-License-Identifier: Apache-2.0
"""Log-probs of given continuations. Logits exist only where they are read."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from rlaif_jax.core import batches
from rlaif_jax.core import protocols
from rlaif_jax.ops import logprobs

# Logits that exist at a time on a device, 256 MiB of them. Fewer make smaller
# products, and as many sums of the head's gradient as there are parts.
LOGITS_AT_ONCE = 2**26


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
  return log_probs_after(
    model,
    params,
    model.hidden(params, batch),
    batch.tokens[:, -response_length:],
    temperature=temperature,
  )


def group_log_probs(
  model: protocols.LanguageModel,
  params: Any,
  batch: batches.GroupBatch,
  *,
  temperature: float = 1.0,
) -> jax.Array:
  """`response_log_probs` [B, G, R], each prompt read once."""
  hidden = model.hidden_group(params, batch)
  return log_probs_after(
    model, params, hidden, batch.response, temperature=temperature
  )


def log_probs_after(
  model: protocols.LanguageModel,
  params: Any,
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
  params: Any,
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
    hidden = model.hidden_packed(params, texts)
    log_probs = log_probs_after(model, params, hidden, texts.target)
    # [B, M, T]: whose target it is.
    mine = (
      texts.owner[:, None] == jnp.arange(texts.last.shape[1])[None, :, None]
    )
    sums = logprobs.sequence_log_prob(log_probs[:, None], mine)
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


def repeat_rows(tree: Any, times: int) -> Any:
  """Each row of every array `times` in a row; numbers stay."""
  if times == 1:
    return tree
  return jax.tree.map(
    lambda x: jnp.repeat(x, times, axis=0) if x.ndim else x, tree
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
  hidden, cache = model.prefill(params, tokens, valid, _room(options))
  return _options_after(model, params, hidden, cache, options)


def shared_option_log_probs(
  model: protocols.LanguageModel,
  params: Any,
  common: Any,
  batch: batches.SharedBatch,
  options: tuple[tuple[int, ...], ...],
) -> jax.Array:
  """`option_log_probs` of a causal model, each beginning read once."""
  room = _room(options)
  hidden, cache = read_shared(
    model, params, common, batch, room, last_only=True
  )
  return _options_after(model, params, hidden[:, 0], cache, options, common)


def packed_option_log_probs(
  model: protocols.LanguageModel,
  params: Any,
  common: Any,
  batch: batches.PackedPrompts,
  options: tuple[tuple[int, ...], ...],
) -> jax.Array:
  """[B, M, len(options)]: `option_log_probs` of packed prompts.

  Args:
    model: functions of a causal language model.
    params: its parameters.
    common: from `read_common`.
    batch: prompts without what is common.
    options: token ids of each option, one each.
  """
  hidden = model.hidden_after(params, common, batch)
  log_probs = jax.nn.log_softmax(model.logits(params, hidden), axis=-1)
  (ids,) = zip(*options, strict=True)
  return log_probs[..., jnp.asarray(ids)]


def shared_log_likelihoods(
  model: protocols.LanguageModel,
  params: Any,
  common: Any,
  batch: batches.SharedBatch,
  weights: jax.Array,
) -> jax.Array:
  """Sums [B] of float32 log-probs of the tokens with weight, [B, S].

  Of the suffixes, that is, whose first token is never scored.
  """
  hidden, _ = read_shared(model, params, common, batch, 0)
  log_probs = log_probs_after(
    model, params, hidden[:, :-1], batch.suffixes[:, 1:]
  )
  weights = weights[:, 1:]
  return jnp.sum(jnp.where(weights > 0, log_probs * weights, 0.0), axis=1)


def read_common(
  model: protocols.LanguageModel,
  params: Any,
  tokens: jax.Array,
  valid: jax.Array,
) -> Any:
  """The cache of one row [1, C] that many rows begin with, made once."""
  return model.prefill(params, tokens, valid, 0)[1]


def read_shared(
  model: protocols.LanguageModel,
  params: Any,
  common: Any,
  batch: batches.SharedBatch,
  room: int,
  *,
  last_only: bool = False,
) -> tuple[jax.Array, Any]:
  """States [B, S, D] of the suffixes, and a cache of the rows after `common`.

  Args:
    model: functions of a causal language model.
    params: its parameters.
    common: from `read_common`; it is read where it is, and not copied.
    batch: the rest of the rows; a prefix is copied for those that own it.
    room: tokens more that the cache has room for.
    last_only: states [B, 1, D] of the suffixes' last columns alone.
  """
  rows, length = batch.suffixes.shape
  cache = model.begin(common, *batch.prefixes.shape)
  _, cache = model.extend(
    params, batch.prefixes, batch.prefix_valid, cache, common
  )
  cache = model.widen(take_rows(cache, batch.owner), length + room)
  asked = jnp.full((rows, 1), length - 1) if last_only else None
  return model.extend(
    params, batch.suffixes, batch.suffix_valid, cache, common, asked
  )


def take_rows(tree: Any, rows: jax.Array) -> Any:
  """Rows [N] of every array; numbers stay."""
  return jax.tree.map(lambda x: x[rows] if x.ndim else x, tree)


def _room(options: tuple[tuple[int, ...], ...]) -> int:
  """Tokens that are read after the prompt.

  Raises:
    ValueError: an option without a token.
  """
  if not all(options):
    raise ValueError(f"options are {options}; every option needs a token")
  return max(map(len, options)) - 1


def _options_after(model, params, hidden, cache, options, *common) -> jax.Array:
  """[B, len(options)] log-probs after the state [B, D] and its cache."""
  after = {(): jax.nn.log_softmax(model.logits(params, hidden), axis=-1)}
  prefixes = {option[:j] for option in options for j in range(1, len(option))}
  for prefix in sorted(prefixes):
    shape = (hidden.shape[0], len(prefix))
    ids = jnp.broadcast_to(jnp.asarray(prefix, jnp.int32)[None], shape)
    here = jnp.ones(shape, bool)
    states, _ = model.extend(params, ids, here, cache, *common)
    after[prefix] = jax.nn.log_softmax(
      model.logits(params, states[:, -1]), axis=-1
    )
  sums = [
    sum(after[option[:j]][:, option[j]] for j in range(len(option)))
    for option in options
  ]
  return jnp.stack(sums, axis=1)
