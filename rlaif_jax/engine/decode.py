# SPDX-License-Identifier: Apache-2.0
"""Samples responses: prefill, then one while_loop on the device.

The loop ends when every response has ended. With `SamplingConfig.slots`, the
next response starts in the same loop where one has ended. The tokens of a
response depend on its key and its prompt, not on the rest of the batch.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from rlaif_jax.core import batches
from rlaif_jax.core import protocols
from rlaif_jax.core import validation
from rlaif_jax.engine import prefix_sharing
from rlaif_jax.ops import sampling


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingConfig(validation.Validated):
  """Lengths and distribution of sampled responses.

  Attributes:
    max_tokens: maximum number of tokens of a response, its end included.
    temperature: of the softmax; 0 is greedy.
    top_k: samples from the k most probable tokens; 0 is off.
    top_p: samples from the most probable tokens that have this mass; 1 is off.
    slots: number of responses sampled at a time (continuous batching); 0 is
      all at once. The samples are the same. Slots are faster where lengths
      differ much; prompts and slots are then best on one device.
  """

  max_tokens: validation.PositiveInt
  temperature: validation.NonNegativeFloat = 1.0
  top_k: validation.NonNegativeInt = 0
  top_p: Annotated[float, validation.Bounds(gt=0, le=1)] = 1.0
  slots: validation.NonNegativeInt = 0


@flax.struct.dataclass
class SampledResponses:
  """Sampled responses.

  Attributes:
    response: tokens, 0 after the end.
    mask: 1 up to and including the end token.
    log_probs: under the distribution that is sampled, after a top-k or top-p
      cut (under that of temperature 1 if greedy), 0 after the end.
  """

  response: Int[Array, "*rows R"]
  mask: Float[Array, "*rows R"]
  log_probs: Float[Array, "*rows R"]

  def reshape(self, shape: tuple[int, ...]) -> SampledResponses:
    """Returns the samples with `shape` in place of their leading axes."""
    return jax.tree.map(lambda x: x.reshape(*shape, x.shape[-1]), self)


@flax.struct.dataclass
class _Loop:
  """State of the sampling loop: S slots, each with a response in progress.

  Attributes:
    response: index of the slot's response; the number of responses or more if
      none is left for it.
    age: number of tokens sampled so far.
    running: whether the response has not ended.
    waiting: index of the first response that has had no slot.
    states: states that predict the next tokens.
    cache: cache of the slots.
    samples: all responses.
  """

  response: Int[Array, " S"]
  age: Int[Array, " S"]
  running: Bool[Array, " S"]
  waiting: Int[Array, ""]
  states: Float[Array, "S D"]
  cache: protocols.Cache
  samples: SampledResponses


@dataclasses.dataclass(frozen=True)
class _Sampler:
  """The arguments that all steps of the loop share.

  `limits` are the maximum numbers of tokens of the responses. `prefix` is ()
  or one cache that all rows continue.
  """

  model: protocols.LanguageModel
  params: protocols.PreparedParams
  keys: Key[Array, " N"]
  limits: Int[Array, " N"]
  config: SamplingConfig
  eos_ids: tuple[int, ...]
  prefix: tuple[protocols.Cache, ...] = ()

  @property
  def num_responses(self) -> int:
    return self.keys.shape[0]

  def start(
    self, slots: int, states: Float[Array, "S D"], cache: protocols.Cache
  ) -> _Loop:
    """Puts the first responses into the slots."""
    shape = (self.num_responses, self.config.max_tokens)
    return _Loop(
      response=jnp.arange(slots),
      age=jnp.zeros((slots,), jnp.int32),
      running=jnp.ones((slots,), bool),
      waiting=jnp.asarray(slots, jnp.int32),
      states=states,
      cache=cache,
      samples=SampledResponses(
        response=jnp.zeros(shape, jnp.int32),
        mask=jnp.zeros(shape, jnp.float32),
        log_probs=jnp.zeros(shape, jnp.float32),
      ),
    )

  def step(self, loop: _Loop) -> _Loop:
    """Samples one more token in every running slot."""
    config = self.config
    response = jnp.minimum(loop.response, self.num_responses - 1)
    token, log_prob = sampling.sample(
      jax.vmap(jax.random.fold_in)(self.keys[response], loop.age),
      self.model.logits(self.params, loop.states),
      temperature=config.temperature,
      top_k=config.top_k,
      top_p=config.top_p,
    )
    token = jnp.where(loop.running, token, 0)
    # Slots that are not running write out of bounds, which drops the value.
    row = jnp.where(loop.running, loop.response, self.num_responses)

    def put(array, values):
      return array.at[row, loop.age].set(values, mode="drop")

    states, cache = self.model.decode_step(
      self.params,
      token[:, None],
      loop.running[:, None],
      loop.cache,
      *self.prefix,
    )
    age = loop.age + 1
    ended = jnp.any(token[:, None] == jnp.asarray(self.eos_ids)[None], axis=1)
    return loop.replace(
      age=age,
      running=loop.running & ~ended & (age < self.limits[response]),
      states=states[:, -1],
      cache=cache,
      samples=SampledResponses(
        response=put(loop.samples.response, token),
        mask=put(loop.samples.mask, 1.0),
        log_probs=put(loop.samples.log_probs, log_prob),
      ),
    )

  def refill(
    self,
    loop: _Loop,
    prompts: tuple[Float[Array, "B D"], protocols.Cache],
  ) -> _Loop:
    """Puts the next responses into the slots that have ended.

    `prompts` are states and the cache of all prompts.
    """
    states, cache = prompts
    num_samples = self.num_responses // states.shape[0]
    free = ~loop.running
    following = loop.waiting + jnp.cumsum(free) - 1
    taken = free & (following < self.num_responses)
    prompt = jnp.minimum(following, self.num_responses - 1) // num_samples

    def put(carry):
      # The states are written here too, so that all reads of the cache come
      # before this loop. XLA would copy the cache otherwise.
      left, own_states, own_cache = carry
      slot = jnp.argmax(left)
      own_states = own_states.at[slot].set(states[prompt[slot]])
      own_cache = self.model.cache.insert_row(
        own_cache, slot, cache, prompt[slot]
      )
      return left.at[slot].set(False), own_states, own_cache

    _, own_states, own_cache = jax.lax.while_loop(
      lambda carry: jnp.any(carry[0]), put, (taken, loop.states, loop.cache)
    )
    return loop.replace(
      response=jnp.where(taken, following, loop.response),
      age=jnp.where(taken, 0, loop.age),
      running=loop.running | taken,
      waiting=loop.waiting + jnp.sum(taken),
      states=own_states,
      cache=own_cache,
    )


def row_keys(
  key: Key[Array, ""], rows: Int[Array, " B"], num_samples: int | None = None
) -> Key[Array, " B"] | Key[Array, "B N"]:
  """Returns sampling keys derived from row numbers.

  A response's key, and so its tokens, do not depend on the batch that the
  response is sampled in. Sample j of row i has the key of number i * N + j.

  Args:
    key: PRNG key of the whole call.
    rows: row numbers.
    num_samples: number of responses per row, N; None returns one key per row.
  """
  numbers = jnp.asarray(rows)
  if num_samples is not None:
    numbers = numbers[:, None] * num_samples + jnp.arange(num_samples)[None]
  keys = jax.vmap(lambda number: jax.random.fold_in(key, number))
  return keys(numbers.reshape(-1)).reshape(numbers.shape)


def generate(
  model: protocols.LanguageModel,
  params: protocols.Params,
  prompt: Int[Array, "B P"],
  prompt_valid: Bool[Array, "B P"],
  keys: Key[Array, "*rows"],
  *,
  config: SamplingConfig,
  eos_ids: tuple[int, ...],
  limits: Int[Array, "*rows"] | None = None,
) -> SampledResponses:
  """Samples one response per key; call under jit.

  With [B, N] keys, each prompt is prefilled once and its cache is repeated N
  times.

  Args:
    model: functions of the language model.
    params: model parameters.
    prompt: prompts with any padding.
    prompt_valid: whether a column of the prompts is a token.
    keys: [B] or [B, N] typed PRNG keys, one per response; see `row_keys`.
    config: lengths and temperature, static under jit.
    eos_ids: tokens that end a response. The end token is part of it.
    limits: maximum number of tokens of each response, >= 1; at most (and by
      default) config.max_tokens.

  Returns:
    Responses of shape [B, R] or [B, N, R], R = config.max_tokens.

  Raises:
    ValueError: config.slots is set and the model has no causal cache.
  """
  sampler = _sampler(model, params, keys, config, eos_ids, limits)
  if 0 < config.slots < keys.size:
    samples = _sample_in_slots(sampler, params, prompt, prompt_valid)
    return samples.reshape(keys.shape)
  prompts = model.prefill(params, prompt, prompt_valid, config.max_tokens)
  num_samples = keys.size // prompt.shape[0]
  states, cache = batches.repeat_rows(prompts, num_samples)
  return _sample(sampler, states, cache).reshape(keys.shape)


def generate_shared(
  model: protocols.LanguageModel,
  params: protocols.Params,
  prefix: protocols.Cache,
  prompts: prefix_sharing.SharedPrompts,
  keys: Key[Array, " B"],
  *,
  config: SamplingConfig,
  eos_ids: tuple[int, ...],
) -> SampledResponses:
  """Returns `generate` of a causal model for prompts after `prefix`.

  `prefix` is from `prefix_sharing.prefill_prefix`.
  """
  states, cache = prefix_sharing.prefill_shared(
    model, params, prefix, prompts, config.max_tokens, last_only=True
  )
  return _sample_after(
    _sampler(model, params, keys, config, eos_ids, None),
    prefix,
    jnp.any(prompts.suffix_valid, axis=1),
    states[:, 0],
    cache,
  )


def generate_packed(
  model: protocols.LanguageModel,
  params: protocols.Params,
  prefix: protocols.Cache,
  batch: batches.PackedBatch,
  prompts: Int[Array, "N W"],
  keys: Key[Array, " N"],
  *,
  config: SamplingConfig,
  eos_ids: tuple[int, ...],
) -> SampledResponses:
  """Returns `generate` of a causal model for packed prompts.

  `prefix` is from `prefix_sharing.prefill_prefix`. `prompts` are columns of
  the batch as in `LanguageModel.prefill_packed`.
  """
  states, cache = model.prefill_packed(
    params, batch, prompts, config.max_tokens, prefix
  )
  return _sample_after(
    _sampler(model, params, keys, config, eos_ids, None),
    prefix,
    jnp.any(prompts >= 0, axis=1),
    states,
    cache,
  )


def _sampler(model, params, keys, config, eos_ids, limits) -> _Sampler:
  if limits is None:
    limits = jnp.full(keys.shape, config.max_tokens, jnp.int32)
  prepared, keys, limits = model.prepare(params), keys.ravel(), limits.ravel()
  return _Sampler(model, prepared, keys, limits, config, eos_ids)


def _sample_after(
  sampler: _Sampler, prefix, is_prompt, states, cache
) -> SampledResponses:
  """Samples after `prefix`; unused rows end after one token."""
  sampler = dataclasses.replace(
    sampler,
    prefix=(prefix,),
    limits=jnp.where(is_prompt, sampler.limits, 1),
  )
  return _sample(sampler, states, cache)


def _sample(
  sampler: _Sampler, states: Float[Array, "N D"], cache: protocols.Cache
) -> SampledResponses:
  """Samples from states of the prompts' last tokens and their cache."""
  start = sampler.start(sampler.num_responses, states, cache)
  return jax.lax.while_loop(
    lambda loop: jnp.any(loop.running), sampler.step, start
  ).samples


def _sample_in_slots(
  sampler: _Sampler, params, prompt, prompt_valid
) -> SampledResponses:
  """Prefills all prompts and samples as many responses at once as slots."""
  model, slots = sampler.model, sampler.config.slots
  if not model.is_causal:
    raise ValueError(
      f"SamplingConfig.slots is {slots}, but an encoder-decoder has no slots; "
      "use slots = 0"
    )
  prompts = _prefill_in_parts(model, params, prompt, prompt_valid, slots)
  num_samples = sampler.num_responses // prompt.shape[0]
  states, cache = batches.take_rows(prompts, jnp.arange(slots) // num_samples)
  cache = model.cache.grow_cache(cache, sampler.config.max_tokens)

  def step(loop: _Loop) -> _Loop:
    return sampler.refill(sampler.step(loop), prompts)

  return jax.lax.while_loop(
    lambda loop: jnp.any(loop.running),
    step,
    sampler.start(slots, states, cache),
  ).samples


def _prefill_in_parts(
  model, params, prompt, valid, rows
) -> tuple[Float[Array, "B D"], protocols.Cache]:
  """Prefills prompts, `rows` at a time; returns states and their cache."""
  count = prompt.shape[0]
  parts = -(-count // rows)
  if parts == 1:
    return model.prefill(params, prompt, valid, 0)
  pad = ((0, parts * rows - count), (0, 0))
  shape = (parts, rows, -1)
  found = jax.lax.map(
    lambda part: model.prefill(params, *part, 0),
    (jnp.pad(prompt, pad).reshape(shape), jnp.pad(valid, pad).reshape(shape)),
  )

  def join(x):
    if x.ndim == 1:  # A counter, the same in all parts.
      return x[0]
    return x.reshape(parts * rows, *x.shape[2:])[:count]

  return jax.tree.map(join, found)
