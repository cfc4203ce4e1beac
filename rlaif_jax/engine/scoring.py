# SPDX-License-Identifier: Apache-2.0
"""Log-probs of given continuations of prompts."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rlaif_jax.core import batches
from rlaif_jax.core import protocols
from rlaif_jax.engine import prefix_sharing
from rlaif_jax.ops import logprobs

# Maximum number of logits that exist at a time on a device, 256 MiB of them.
# Fewer make smaller products, and one sum of the head's gradient per part.
LOGITS_AT_ONCE = 2**26

OptionIds = tuple[tuple[int, ...], ...]


def response_logits(
  model: protocols.LanguageModel,
  params: protocols.Params,
  batch: batches.TokenBatch,
) -> Float[Array, "B R V"]:
  """Returns the logits that predict the response."""
  return model.logits(params, model.hidden(params, batch))


def response_log_probs(
  model: protocols.LanguageModel,
  params: protocols.Params,
  batch: batches.TokenBatch | batches.GroupBatch,
  *,
  temperature: float = 1.0,
) -> Float[Array, "B R"] | Float[Array, "B N R"]:
  """Returns the float32 log-probs of responses under softmax(logits / T).

  The responses of a GroupBatch's prompt share one forward pass of it.
  """
  if isinstance(batch, batches.GroupBatch):
    targets = batch.response
  else:
    targets = batch.tokens[:, -batch.weights.shape[1] :]
  states = model.hidden(params, batch)
  return target_log_probs(
    model, params, states, targets, temperature=temperature
  )


def target_log_probs(
  model: protocols.LanguageModel,
  params: protocols.Params,
  states: Float[Array, "*rows T D"],
  targets: Int[Array, "*rows T"],
  *,
  temperature: float = 1.0,
) -> Float[Array, "*rows T"]:
  """Returns the float32 log-probs of targets, from the states before them.

  At most about LOGITS_AT_ONCE logits exist at a time: columns are computed in
  parts if there are more. The gradient then recomputes each part's logits.
  """

  def log_probs(part):
    logits = model.logits(params, part[0])
    return logprobs.token_log_probs(logits, part[1], temperature=temperature)

  columns = targets.shape[-1]
  size = targets.size * model.vocab_size // model.row_devices
  width = -(-columns // max(1, -(-size // LOGITS_AT_ONCE)))
  if width >= columns:
    return log_probs((states, targets))
  parts = -(-columns // width)

  def split(x, axis):
    pad = [(0, 0)] * x.ndim
    pad[axis] = (0, parts * width - columns)
    x = jnp.pad(x, pad)
    x = x.reshape(*x.shape[:axis], parts, width, *x.shape[axis + 1 :])
    return jnp.moveaxis(x, axis, 0)

  axis = targets.ndim - 1
  found = jax.lax.map(
    jax.checkpoint(log_probs, prevent_cse=False),
    (split(states, axis), split(targets, axis)),
  )
  found = jnp.moveaxis(found, 0, axis)
  return found.reshape(*targets.shape[:-1], -1)[..., :columns]


def pair_log_probs(
  model: protocols.LanguageModel,
  params: protocols.Params,
  pairs: batches.PairBatch,
) -> tuple[Float[Array, "*pairs"], Float[Array, "*pairs"]]:
  """Returns the log-probs of both whole responses, in the label's shape.

  Each prompt is read once. Padding is not counted.
  """
  texts = pairs.texts
  if not pairs.is_packed:
    log_probs = response_log_probs(model, params, texts)
    sums = logprobs.sequence_log_prob(log_probs, texts.response_valid)
  else:
    states = model.hidden(params, texts)
    log_probs = target_log_probs(model, params, states, texts.targets)
    sums = logprobs.sequence_log_prob(log_probs[:, None], _is_own(texts))
  return split_pairs(sums, pairs.label)


def _is_own(texts: batches.PackedBatch) -> Bool[Array, "B M T"]:
  """Returns whether a target is one of a response."""
  responses = jnp.arange(texts.last.shape[1])[None, :, None]
  return texts.response_ids[:, None] == responses


def pair_counts(
  pairs: batches.PairBatch,
) -> tuple[Float[Array, "*pairs"], Float[Array, "*pairs"]]:
  """Returns the tokens of both responses, at least 1, in the label's shape."""
  texts = pairs.texts
  is_token = _is_own(texts) if pairs.is_packed else texts.response_valid
  counts = jnp.sum(is_token, axis=2).astype(jnp.float32)
  return split_pairs(jnp.maximum(counts, 1.0), pairs.label)


def split_pairs(
  values: Float[Array, "B pairs2"], label: Float[Array, "*pairs"]
) -> tuple[Float[Array, "*pairs"], Float[Array, "*pairs"]]:
  """Splits alternating values into firsts and seconds in the label's shape."""
  return tuple(values[:, i::2].reshape(label.shape) for i in (0, 1))


def join(
  prompts: batches.PromptBatch,
  response: Int[Array, "B R"],
  mask: Float[Array, "B R"],
) -> batches.TokenBatch:
  """Returns prompts with one response each as a TokenBatch."""
  return batches.TokenBatch(
    tokens=jnp.concatenate([prompts.prompt, response], axis=1),
    valid=jnp.concatenate([prompts.prompt_valid, mask > 0], axis=1),
    weights=mask.astype(jnp.float32),
  )


def join_groups(
  prompts: batches.PromptBatch,
  response: Int[Array, "B N R"],
  mask: Float[Array, "B N R"],
) -> batches.GroupBatch:
  """Returns prompts with N responses each as a GroupBatch."""
  return batches.GroupBatch(
    prompt=prompts.prompt,
    prompt_valid=prompts.prompt_valid,
    response=response,
    response_valid=mask > 0,
  )


def option_log_probs(
  model: protocols.LanguageModel,
  params: protocols.Params,
  tokens: Int[Array, "B L"],
  valid: Bool[Array, "B L"],
  options: OptionIds,
) -> Float[Array, "B options"]:
  """Returns the log-prob of each whole option after each prompt.

  The prompt is prefilled once. An option of several tokens takes one more
  short decode step per distinct proper prefix ("1" of "10").

  Args:
    model: functions of the language model.
    params: model parameters.
    tokens: prompts with any padding.
    valid: whether a column of the prompts is a token.
    options: token ids of each option, static under jit.

  Returns:
    Float32 log-probs. Option "1" includes the mass of "10".

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
  options: OptionIds,
) -> Float[Array, "B options"]:
  """Returns `option_log_probs` of prompts after `prefix`."""
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
  options: OptionIds,
) -> Float[Array, "B T options"]:
  """Returns `option_log_probs` of packed prompts after `prefix`.

  Args:
    model: functions of a causal language model.
    params: model parameters.
    prefix: cache from `prefix_sharing.prefill_prefix`.
    batch: prompts without the prefix.
    options: the one token id of each option.

  Returns:
    Float32 log-probs of T prompts per row.
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
  weights: Float[Array, "B S"],
) -> Float[Array, " B"]:
  """Returns the weighted sums of the log-probs of the suffixes' tokens.

  Args:
    model: functions of a causal language model.
    params: model parameters.
    prefix: cache from `prefix_sharing.prefill_prefix`.
    prompts: prompts without the prefix.
    weights: weights of the tokens; those of the first column are not read.
  """
  states, _ = prefix_sharing.prefill_shared(model, params, prefix, prompts, 0)
  log_probs = target_log_probs(
    model, params, states[:, :-1], prompts.suffix[:, 1:]
  )
  weights = weights[:, 1:]
  return jnp.sum(jnp.where(weights > 0, log_probs * weights, 0.0), axis=1)


def _num_new_tokens(options: OptionIds) -> int:
  """Returns how many tokens are read after the prompt.

  Raises:
    ValueError: an option has no tokens.
  """
  if not all(options):
    raise ValueError(
      f"options are {options}; every option needs at least one token"
    )
  return max(map(len, options)) - 1


def _options_after(
  model, params, states, cache, options, *prefix
) -> Float[Array, "B options"]:
  """Returns log-probs after states [B, D] and their cache."""
  after = {(): jax.nn.log_softmax(model.logits(params, states), axis=-1)}
  partial_options = {
    option[:j] for option in options for j in range(1, len(option))
  }
  for partial in sorted(partial_options):
    shape = (states.shape[0], len(partial))
    ids = jnp.broadcast_to(jnp.asarray(partial, jnp.int32)[None], shape)
    found, _ = model.decode_step(
      params, ids, jnp.ones(shape, bool), cache, *prefix
    )
    after[partial] = jax.nn.log_softmax(
      model.logits(params, found[:, -1]), axis=-1
    )
  sums = [
    sum(after[option[:j]][:, option[j]] for j in range(len(option)))
    for option in options
  ]
  return jnp.stack(sums, axis=1)
