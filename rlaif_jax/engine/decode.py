# SPDX-License-Identifier: Apache-2.0
"""Sampling with a cache: prefill, then one while_loop on the device.

The loop ends early when every row has ended. A row's samples depend on its
own key alone, not on its place in the batch or on the batch's size.
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
from rlaif_jax.ops import logprobs
from rlaif_jax.ops import sampling


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingConfig:
  """How responses are drawn. temperature 0 is greedy; top_k 0, top_p 1: off."""

  max_tokens: int
  temperature: float = 1.0
  top_k: int = 0
  top_p: float = 1.0

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
    if self.top_k < 0 or not 0 < self.top_p <= 1:
      raise ValueError(
        f"SamplingConfig: top_k is {self.top_k} and top_p is {self.top_p}; "
        "top_k must be >= 0 (0 is off) and top_p in (0, 1] (1 is off)"
      )


@flax.struct.dataclass
class Sampled:
  """response [B, R] (0 after the end), mask [B, R] float32 (the end token
  counts), log_probs [B, R] under softmax(logits / temperature) before any
  top-k or top-p cut (at temperature 1 for greedy)."""

  response: jax.Array
  mask: jax.Array
  log_probs: jax.Array


@flax.struct.dataclass
class _Loop:
  step: jax.Array  # tokens drawn so far
  logits: jax.Array  # [B, V] that predict the next token
  running: jax.Array  # [B] rows that have not ended
  cache: Any
  out: Sampled


def row_keys(key: jax.Array, rows: jax.Array) -> jax.Array:
  """One key per row, from the row's own number: [B] int32 -> [B] keys."""
  return jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)


def generate(
  model: protocols.LanguageModel,
  params: Any,
  prompt: jax.Array,
  prompt_valid: jax.Array,
  keys: jax.Array,
  *,
  config: SamplingConfig,
  eos_ids: tuple[int, ...],
) -> Sampled:
  """Draws one response per key; call under jit.

  Of G keys a prompt, those of one stand together; it is read once.

  Args:
    model: functions of the language model.
    params: its parameters.
    prompt: [B, P] int32, padded anywhere.
    prompt_valid: [B, P] bool.
    keys: [B G] typed PRNG keys, one per response; see `row_keys`.
    config: lengths and temperature, static under jit.
    eos_ids: tokens that end a response; the end token is part of it.

  Returns:
    Sampled with R = config.max_tokens columns.
  """
  hidden, cache = model.prefill(params, prompt, prompt_valid, config.max_tokens)
  samples = keys.shape[0] // prompt.shape[0]
  hidden, cache = scoring.repeat_rows((hidden, cache), samples)
  return _write_on(model, params, hidden, cache, keys, config, eos_ids)


def generate_shared(
  model: protocols.LanguageModel,
  params: Any,
  batch: batches.SharedBatch,
  keys: jax.Array,
  *,
  config: SamplingConfig,
  eos_ids: tuple[int, ...],
) -> Sampled:
  """`generate` of a causal model after prompts whose beginnings it shares."""
  hidden, cache = scoring.read_shared(model, params, batch, config.max_tokens)
  return _write_on(model, params, hidden[:, -1], cache, keys, config, eos_ids)


def _write_on(model, params, hidden, cache, keys, config, eos_ids) -> Sampled:
  """Draws from states [B, D] of the prompts' last tokens and their cache."""
  batch = hidden.shape[0]
  shape = (batch, config.max_tokens)
  start = _Loop(
    step=jnp.zeros((), jnp.int32),
    logits=model.logits(params, hidden),
    running=jnp.ones((batch,), bool),
    cache=cache,
    out=Sampled(
      response=jnp.zeros(shape, jnp.int32),
      mask=jnp.zeros(shape, jnp.float32),
      log_probs=jnp.zeros(shape, jnp.float32),
    ),
  )

  def go_on(loop: _Loop) -> jax.Array:
    return (loop.step < config.max_tokens) & jnp.any(loop.running)

  def draw(loop: _Loop) -> _Loop:
    step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, loop.step)
    token = sampling.sample(
      step_keys,
      loop.logits,
      temperature=config.temperature,
      top_k=config.top_k,
      top_p=config.top_p,
    )
    token = jnp.where(loop.running, token, 0)
    log_prob = logprobs.token_log_probs(
      loop.logits, token, temperature=config.temperature or 1.0
    )
    column = (0, loop.step)

    def put(array, values):
      return jax.lax.dynamic_update_slice(array, values[:, None], column)

    out = Sampled(
      response=put(loop.out.response, token),
      mask=put(loop.out.mask, loop.running.astype(jnp.float32)),
      log_probs=put(loop.out.log_probs, jnp.where(loop.running, log_prob, 0.0)),
    )
    ended = jnp.any(token[:, None] == jnp.asarray(eos_ids)[None], axis=1)
    hidden, cache = model.extend(
      params, token[:, None], loop.running[:, None], loop.cache
    )
    return _Loop(
      step=loop.step + 1,
      logits=model.logits(params, hidden[:, -1]),
      running=loop.running & ~ended,
      cache=cache,
      out=out,
    )

  return jax.lax.while_loop(go_on, draw, start).out
