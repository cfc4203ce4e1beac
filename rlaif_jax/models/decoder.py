# SPDX-License-Identifier: Apache-2.0
"""A Llama-like decoder-only language model: one frozen config, one module.

Owns the model and the plain functions that the engine uses of it
(`functions`); knows nothing of losses, sampling or files.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from rlaif_jax.core import protocols
from rlaif_jax.models import attention
from rlaif_jax.models import layers


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig:
  """Sizes of a decoder. `max_length` bounds prompt + response in tokens.

  `previous_key_heads`: see `attention.Attention`; 0 in every public model.
  `match_gain` > 0 starts key kernels as copies of query kernels, both times
  this gain, so that from the first step a token attends to its like (after
  the mimetic initialisation of arXiv:2305.09828); it does not change what a
  model computes from given parameters.
  """

  vocab_size: int
  width: int
  num_layers: int
  num_heads: int
  num_kv_heads: int
  head_dim: int
  mlp_dim: int
  max_length: int
  rope_theta: float = 10_000.0
  norm_epsilon: float = 1e-6
  tie_embeddings: bool = True
  previous_key_heads: int = 0
  match_gain: float = 0.0
  dtype: str = "float32"

  def __post_init__(self):
    for field in ("vocab_size", "width", "num_layers", "num_heads", "mlp_dim"):
      if getattr(self, field) < 1:
        raise ValueError(
          f"DecoderConfig.{field} is {getattr(self, field)}; it must be >= 1"
        )
    if self.num_kv_heads < 1 or self.num_heads % self.num_kv_heads:
      raise ValueError(
        f"DecoderConfig: num_heads is {self.num_heads} and num_kv_heads is "
        f"{self.num_kv_heads}; the first must be a multiple of the second"
      )
    if not 0 <= self.previous_key_heads <= self.num_kv_heads:
      raise ValueError(
        f"DecoderConfig.previous_key_heads is {self.previous_key_heads}; it "
        f"must be in [0, num_kv_heads = {self.num_kv_heads}]"
      )
    if self.head_dim % 2:
      raise ValueError(
        f"DecoderConfig.head_dim is {self.head_dim}; rotary embedding needs "
        "an even number"
      )
    if self.dtype not in ("float32", "bfloat16"):
      raise ValueError(
        f"DecoderConfig.dtype is {self.dtype!r}; use 'float32' or 'bfloat16'"
      )


class Block(nn.Module):
  """Pre-norm attention and gated MLP."""

  config: DecoderConfig

  @nn.compact
  def __call__(self, x, positions, valid, mask, cached=None):
    c = self.config
    normed = layers.RMSNorm(c.norm_epsilon, c.dtype, name="attention_norm")(x)
    out, state = attention.Attention(
      num_heads=c.num_heads,
      num_kv_heads=c.num_kv_heads,
      head_dim=c.head_dim,
      previous_key_heads=c.previous_key_heads,
      rope_theta=c.rope_theta,
      dtype=c.dtype,
      name="attention",
    )(normed, positions, valid, mask, cached)
    x = x + out
    normed = layers.RMSNorm(c.norm_epsilon, c.dtype, name="mlp_norm")(x)
    x = x + layers.GatedMLP(c.mlp_dim, c.dtype, name="mlp")(normed)
    return x, state


class Decoder(nn.Module):
  """Tokens to hidden states, with or without a cache; hidden to logits."""

  config: DecoderConfig

  def setup(self):
    c = self.config
    self.embedding = layers.Embedding(c.vocab_size, c.width, c.dtype)
    self.blocks = [Block(c) for _ in range(c.num_layers)]
    self.final_norm = layers.RMSNorm(c.norm_epsilon, c.dtype)
    if not c.tie_embeddings:
      self.output = layers.Projection(
        (c.vocab_size,), ("embed", "vocab"), dtype=c.dtype
      )

  def __call__(self, tokens: jax.Array, valid: jax.Array) -> jax.Array:
    """Tokens and valid [B, L] -> logits [B, L, V]; makes all parameters."""
    return self.logits(self.hidden(tokens, valid))

  def hidden(self, tokens: jax.Array, valid: jax.Array) -> jax.Array:
    """[B, L] -> final hidden states [B, L, D]."""
    return self._read(tokens, valid)[0]

  def logits(self, hidden: jax.Array) -> jax.Array:
    """[..., D] -> float32 logits [..., V]."""
    if self.config.tie_embeddings:
      return self.embedding.logits(hidden)
    return self.output(hidden).astype(jnp.float32)

  def prefill(
    self, tokens: jax.Array, valid: jax.Array, capacity: int
  ) -> tuple[jax.Array, attention.Cache]:
    """Reads prompts [B, L] and returns a cache with `capacity` columns."""
    hidden, states = self._read(tokens, valid)
    extra = capacity - tokens.shape[1]
    pad = ((0, 0), (0, extra), (0, 0), (0, 0))
    return hidden, attention.Cache(
      keys=tuple(jnp.pad(key, pad) for key, _, _ in states),
      values=tuple(jnp.pad(value, pad) for _, value, _ in states),
      last_keys=tuple(last for _, _, last in states),
      valid=jnp.pad(valid, pad[:2]),
      column=jnp.asarray(tokens.shape[1], jnp.int32),
    )

  def extend(
    self, tokens: jax.Array, valid: jax.Array, cache: attention.Cache
  ) -> tuple[jax.Array, attention.Cache]:
    """Reads [B, L] more tokens after those in the cache."""
    length, capacity = tokens.shape[1], cache.valid.shape[1]
    seen = jnp.sum(cache.valid, axis=1, keepdims=True)
    positions = attention.positions_from_valid(valid, seen)
    all_valid = jax.lax.dynamic_update_slice(
      cache.valid, valid, (0, cache.column)
    )
    query_column = cache.column + jnp.arange(length)
    causal = jnp.arange(capacity)[None, :] <= query_column[:, None]
    mask = causal[None] & all_valid[:, None, :]
    x = self.embedding(tokens)
    states = []
    for block, *cached in zip(
      self.blocks, cache.keys, cache.values, cache.last_keys, strict=True
    ):
      x, state = block(x, positions, valid, mask, (*cached, cache.column))
      states.append(state)
    keys, values, last_keys = zip(*states, strict=True)
    return self.final_norm(x), attention.Cache(
      keys, values, last_keys, all_valid, cache.column + length
    )

  def _read(self, tokens, valid):
    positions = attention.positions_from_valid(valid)
    mask = attention.causal_mask(valid)
    x = self.embedding(tokens)
    states = []
    for block in self.blocks:
      x, state = block(x, positions, valid, mask)
      states.append(state)
    return self.final_norm(x), states


def match_keys_to_queries(attention_params, config: DecoderConfig) -> None:
  """Makes each key head a copy of the first query head that reads it."""
  query = attention_params["query"]["kernel"]
  key = attention_params["key"]["kernel"]
  group = config.num_heads // config.num_kv_heads
  value = query.value * config.match_gain
  attention_params["query"]["kernel"] = query.replace(value=value)
  attention_params["key"]["kernel"] = key.replace(value=value[:, ::group])


def functions(config: DecoderConfig) -> protocols.LanguageModel:
  """The plain functions of a decoder, params first."""
  module = Decoder(config)

  def method(name):
    def call(params, *args):
      return module.apply({"params": params}, *args, method=name)

    return call

  def init(key):
    tokens = jnp.zeros((1, 2), jnp.int32)
    params = module.init(key, tokens, jnp.ones((1, 2), bool))["params"]
    if config.match_gain:
      for layer in range(config.num_layers):
        match_keys_to_queries(params[f"blocks_{layer}"]["attention"], config)
    return params

  return protocols.LanguageModel(
    init=init,
    hidden=method("hidden"),
    logits=method("logits"),
    prefill=method("prefill"),
    extend=method("extend"),
    vocab_size=config.vocab_size,
    max_length=config.max_length,
  )
