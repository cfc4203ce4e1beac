# SPDX-License-Identifier: Apache-2.0
"""Sampling with a cache: prefill, then one while_loop on the device.

The loop ends early when every row has ended; with `SamplingConfig.slots`,
rows that have ended take the next prompts, in the same loop. A row's samples
depend on its own key alone, not on its place in the batch, the batch's size
or its slot.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from rlaif_jax.core import batches
from rlaif_jax.core import protocols
from rlaif_jax.engine import scoring
from rlaif_jax.ops import sampling


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingConfig:
  """How responses are drawn. temperature 0 is greedy; top_k 0, top_p 1: off.

  `slots` responses are written at a time, and the next begins where one has
  ended (the samples stay the same); 0: all at once. It pays where lengths
  differ much; prompts and slots are then best on one device.
  """

  max_tokens: int
  temperature: float = 1.0
  top_k: int = 0
  top_p: float = 1.0
  slots: int = 0

  def __post_init__(self):
    if self.max_tokens < 1:
      raise ValueError(
        f"SamplingConfig.max_tokens is {self.max_tokens}; it must be >= 1"
      )
    if self.temperature < 0:
      raise ValueError(
        f"SamplingConfig.temperature is {self.temperature}; use 0 for greedy "
        "or a positive number"
      )
    if self.slots < 0:
      raise ValueError(
        f"SamplingConfig.slots is {self.slots}; use 0 for all responses at "
        "once or the number that is written at a time"
      )
    if self.top_k < 0 or not 0 < self.top_p <= 1:
      raise ValueError(
        f"SamplingConfig: top_k is {self.top_k} and top_p is {self.top_p}; "
        "top_k must be >= 0 (0 is off) and top_p in (0, 1] (1 is off)"
      )


@flax.struct.dataclass
class Samples:
  """Sampled responses.

  Attributes:
    response: [..., R] int32 tokens, 0 after the end.
    mask: [..., R] float32, 1 up to and including the end token.
    log_probs: [..., R] float32 under softmax(logits / temperature) before any
      top-k or top-p cut (temperature 1 if greedy), 0 after the end.
  """

  response: jax.Array
  mask: jax.Array
  log_probs: jax.Array

  def reshape(self, shape: tuple[int, ...]) -> Samples:
    """Returns the samples with `shape` in place of their leading axes."""
    return jax.tree.map(lambda x: x.reshape(*shape, x.shape[-1]), self)


@flax.struct.dataclass
class _Loop:
  """S slots, each with the response that it writes.

  owner: [S] its number, that of no response where none is left; age: [S] its
  tokens so far; hidden: [S, D] states that predict the next; running: [S];
  waiting: the first response that has no slot yet.
  """

  owner: jax.Array
  age: jax.Array
  running: jax.Array
  waiting: jax.Array
  hidden: jax.Array
  cache: Any
  out: Samples


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Sampler:
  """What stays the same from token to token."""

  model: protocols.LanguageModel
  weights: protocols.Prepared
  keys: jax.Array  # [N]
  limits: jax.Array  # [N] the most tokens of each response
  config: SamplingConfig
  eos_ids: tuple[int, ...]
  common: tuple[Any, ...] = ()  # The cache of what all rows begin with.

  @property
  def count(self) -> int:
    return self.keys.shape[0]

  def start(self, slots: int, hidden: jax.Array, cache: Any) -> _Loop:
    """The first responses in the slots, after states [S, D] of prompts."""
    shape = (self.count, self.config.max_tokens)
    return _Loop(
      owner=jnp.arange(slots),
      age=jnp.zeros((slots,), jnp.int32),
      running=jnp.ones((slots,), bool),
      waiting=jnp.asarray(slots, jnp.int32),
      hidden=hidden,
      cache=cache,
      out=Samples(
        response=jnp.zeros(shape, jnp.int32),
        mask=jnp.zeros(shape, jnp.float32),
        log_probs=jnp.zeros(shape, jnp.float32),
      ),
    )

  def draw(self, loop: _Loop) -> _Loop:
    """One more token in every running slot."""
    config = self.config
    mine = jnp.minimum(loop.owner, self.count - 1)
    token, log_prob = sampling.sample(
      jax.vmap(jax.random.fold_in)(self.keys[mine], loop.age),
      self.model.logits(self.weights, loop.hidden),
      temperature=config.temperature,
      top_k=config.top_k,
      top_p=config.top_p,
    )
    token = jnp.where(loop.running, token, 0)
    # Where nothing is written any more, the row is that of no response.
    place = (jnp.where(loop.running, loop.owner, self.count), loop.age)

    def put(array, values):
      return array.at[place].set(values, mode="drop")

    hidden, cache = self.model.extend(
      self.weights,
      token[:, None],
      loop.running[:, None],
      loop.cache,
      *self.common,
    )
    age = loop.age + 1
    ended = jnp.any(token[:, None] == jnp.asarray(self.eos_ids)[None], axis=1)
    return loop.replace(
      age=age,
      running=loop.running & ~ended & (age < self.limits[mine]),
      hidden=hidden[:, -1],
      cache=cache,
      out=Samples(
        response=put(loop.out.response, token),
        mask=put(loop.out.mask, 1.0),
        log_probs=put(loop.out.log_probs, log_prob),
      ),
    )

  def refill(self, loop: _Loop, prompts: tuple[jax.Array, Any]) -> _Loop:
    """The next responses into slots that have ended.

    `prompts` are states [P, D] and a cache of all prompts; those of one prompt
    stand together.
    """
    states, cache = prompts
    samples = self.count // states.shape[0]
    free = ~loop.running
    next_one = loop.waiting + jnp.cumsum(free) - 1
    taken = free & (next_one < self.count)
    prompt = jnp.minimum(next_one, self.count - 1) // samples

    def put(carry):
      # The states, too, so that the loop begins after all reading of the
      # cache: or else XLA would copy it.
      left, hidden, own = carry
      slot = jnp.argmax(left)
      hidden = hidden.at[slot].set(states[prompt[slot]])
      own = self.model.put_row(own, slot, cache, prompt[slot])
      return left.at[slot].set(False), hidden, own

    _, hidden, own = jax.lax.while_loop(
      lambda carry: jnp.any(carry[0]), put, (taken, loop.hidden, loop.cache)
    )
    return loop.replace(
      owner=jnp.where(taken, next_one, loop.owner),
      age=jnp.where(taken, 0, loop.age),
      running=loop.running | taken,
      waiting=loop.waiting + jnp.sum(taken),
      hidden=hidden,
      cache=own,
    )


def row_keys(
  key: jax.Array, rows: jax.Array, num_samples: int | None = None
) -> jax.Array:
  """Returns sampling keys derived from row numbers.

  A response's key, and so its tokens, do not depend on the batch that the
  response is sampled in. Sample j of row i has the key of number i * N + j.

  Args:
    key: PRNG key of the whole call.
    rows: [B] int32 row numbers.
    num_samples: number of responses per row, N.

  Returns:
    [B] keys if num_samples is None, else [B, N].
  """
  numbers = jnp.asarray(rows)
  if num_samples is not None:
    numbers = numbers[:, None] * num_samples + jnp.arange(num_samples)[None]
  keys = jax.vmap(lambda number: jax.random.fold_in(key, number))
  return keys(numbers.reshape(-1)).reshape(numbers.shape)


def generate(
  model: protocols.LanguageModel,
  params: Any,
  prompt: jax.Array,
  prompt_valid: jax.Array,
  keys: jax.Array,
  *,
  config: SamplingConfig,
  eos_ids: tuple[int, ...],
  limits: jax.Array | None = None,
) -> Samples:
  """Samples one response per key; call under jit.

  With [B, N] keys, each prompt is prefilled once and its cache is repeated N
  times.

  Args:
    model: functions of the language model.
    params: model parameters.
    prompt: [B, P] int32 prompts with any padding.
    prompt_valid: [B, P] bool.
    keys: [B] or [B, N] typed PRNG keys, one per response; see `row_keys`.
    config: lengths and temperature, static under jit.
    eos_ids: tokens that end a response. The end token is part of it.
    limits: maximum number of tokens of each response, int32 >= 1, in the shape
      of `keys`; at most (and by default) config.max_tokens.

  Returns:
    Samples of shape [B, R] or [B, N, R], R = config.max_tokens.

  Raises:
    ValueError: config.slots is set and the model has no causal cache.
  """
  sampler = _sampler(model, params, keys, config, eos_ids, limits)
  if 0 < config.slots < keys.size:
    samples = _in_slots(sampler, params, prompt, prompt_valid)
    return samples.reshape(keys.shape)
  hidden, cache = model.prefill(params, prompt, prompt_valid, config.max_tokens)
  num_samples = keys.size // prompt.shape[0]
  hidden, cache = scoring.repeat_rows((hidden, cache), num_samples)
  return _write_on(sampler, hidden, cache).reshape(keys.shape)


def generate_shared(
  model: protocols.LanguageModel,
  params: Any,
  common: Any,
  batch: batches.SharedBatch,
  keys: jax.Array,
  *,
  config: SamplingConfig,
  eos_ids: tuple[int, ...],
) -> Samples:
  """`generate` [B, R] of a causal model for prompts that share prefixes.

  `common` is `scoring.read_common` of what all begin with.
  """
  hidden, cache = scoring.read_shared(
    model, params, common, batch, config.max_tokens, last_only=True
  )
  return _write_after(
    _sampler(model, params, keys, config, eos_ids, None),
    common,
    jnp.any(batch.suffix_valid, axis=1),
    hidden[:, 0],
    cache,
  )


def generate_packed(
  model: protocols.LanguageModel,
  params: Any,
  common: Any,
  batch: batches.PackedPrompts,
  prompts: batches.Unpacked,
  keys: jax.Array,
  *,
  config: SamplingConfig,
  eos_ids: tuple[int, ...],
) -> Samples:
  """`generate` [N, R] of a causal model for packed prompts.

  `common` is `scoring.read_common` of what all begin with.
  """
  hidden, cache = model.unpack(
    params, common, batch, prompts, config.max_tokens
  )
  return _write_after(
    _sampler(model, params, keys, config, eos_ids, None),
    common,
    jnp.any(prompts.columns >= 0, axis=1),
    hidden,
    cache,
  )


def _sampler(model, params, keys, config, eos_ids, limits) -> _Sampler:
  if limits is None:
    limits = jnp.full(keys.shape, config.max_tokens, jnp.int32)
  return _Sampler(
    model=model,
    weights=model.prepare(params),
    keys=keys.reshape(-1),
    limits=limits.reshape(-1),
    config=config,
    eos_ids=eos_ids,
  )


def _write_after(
  sampler: _Sampler, common, is_prompt, hidden, cache
) -> Samples:
  """`_write_on` after `common`; rows that only fill the batch end at once."""
  sampler = dataclasses.replace(
    sampler,
    common=(common,),
    limits=jnp.where(is_prompt, sampler.limits, 1),
  )
  return _write_on(sampler, hidden, cache)


def _write_on(sampler: _Sampler, hidden: jax.Array, cache: Any) -> Samples:
  """Draws from states [B, D] of the prompts' last tokens and their cache."""
  start = sampler.start(sampler.count, hidden, cache)
  return jax.lax.while_loop(
    lambda loop: jnp.any(loop.running), sampler.draw, start
  ).out


def _in_slots(sampler: _Sampler, params, prompt, prompt_valid) -> Samples:
  """Reads all prompts, and writes as many responses at a time as are slots."""
  model, slots = sampler.model, sampler.config.slots
  if model.put_row is None:
    raise ValueError(
      f"SamplingConfig.slots is {slots}, but an encoder-decoder has no slots; "
      "use slots = 0"
    )
  states, cache = _read_prompts(model, params, prompt, prompt_valid, slots)
  first = jnp.arange(slots) // (sampler.count // prompt.shape[0])
  hidden, own = scoring.take_rows((states, cache), first)
  own = model.widen(own, sampler.config.max_tokens)

  def go_on(loop: _Loop) -> _Loop:
    return sampler.refill(sampler.draw(loop), (states, cache))

  return jax.lax.while_loop(
    lambda loop: jnp.any(loop.running),
    go_on,
    sampler.start(slots, hidden, own),
  ).out


def _read_prompts(model, params, prompt, valid, rows) -> tuple[jax.Array, Any]:
  """States [B, D] and a cache of all prompts, read `rows` at a time."""
  count = prompt.shape[0]
  parts = -(-count // rows)
  if parts == 1:
    return model.prefill(params, prompt, valid, 0)
  pad = ((0, parts * rows - count), (0, 0))
  shape = (parts, rows, -1)
  read = jax.lax.map(
    lambda part: model.prefill(params, *part, 0),
    (jnp.pad(prompt, pad).reshape(shape), jnp.pad(valid, pad).reshape(shape)),
  )

  def joined(x):
    if x.ndim == 1:  # Such as the next column: the same in all parts.
      return x[0]
    return x.reshape(parts * rows, *x.shape[2:])[:count]

  return jax.tree.map(joined, read)
