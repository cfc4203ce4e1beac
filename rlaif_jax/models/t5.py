# SPDX-License-Identifier: Apache-2.0
"""T5 1.0, T5 1.1 and Flan-T5: an encoder for prompts, a decoder for responses.

Parameter names, shapes and logical axes are those of T5X's T5 1.1, so its
checkpoints are read without renaming (arXiv:1910.10683, arXiv:2002.05202).
"""

from __future__ import annotations

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from jaxtyping import Array, Bool, Float, Int

from rlaif_jax.core import batches
from rlaif_jax.core import protocols
from rlaif_jax.models import layers
from rlaif_jax.models import layouts
from rlaif_jax.models import t5_layers

T5Config = t5_layers.T5Config

# As in pretraining, the decoder starts with T5's pad id and the encoder's text
# ends with its end id.
START_ID = 0
END_ID = 1


@flax.struct.dataclass
class T5Cache:
  """Keys and values of prompts and of S response columns for each layer."""

  keys: tuple[Float[Array, "B S H C"], ...]
  values: tuple[Float[Array, "B S H C"], ...]
  cross_keys: tuple[Float[Array, "B P H C"], ...]
  cross_values: tuple[Float[Array, "B P H C"], ...]
  prompt_valid: Bool[Array, "B P"]
  valid: Bool[Array, "B S"]
  column: Int[Array, ""]  # The next column to write.


class T5(nn.Module):
  """Prompt and response tokens to states of the response; states to logits."""

  config: T5Config
  options: layers.ForwardOptions = layers.DEFAULT_OPTIONS

  def setup(self):
    c = self.config
    self.token_embedder = t5_layers.TokenEmbedder(c)
    self.encoder = t5_layers.Encoder(c, self.options)
    self.decoder = t5_layers.ResponseDecoder(c, self.options)

  def __call__(
    self, prompt, prompt_valid, response, valid
  ) -> Float[Array, "BN columns V"]:
    """Returns logits of `states`; creates all parameters."""
    return self.logits(self.states(prompt, prompt_valid, response, valid))

  def states(
    self,
    prompt: Int[Array, "B P"],
    prompt_valid: Bool[Array, "B P"],
    response: Int[Array, "BN R"],
    valid: Bool[Array, "BN R"],
  ) -> Float[Array, "BN columns D"]:
    """Returns the 1 + R states before each response column and after the last.

    N consecutive responses have the same prompt.
    """
    encoded, prompt_valid = self._encode(prompt, prompt_valid)
    tokens = jnp.pad(response, ((0, 0), (1, 0)), constant_values=START_ID)
    valid = jnp.pad(valid, ((0, 0), (1, 0)), constant_values=True)
    x = self.token_embedder(tokens)
    if self.options.compute.scan_layers and not self.is_initializing():
      return self.decoder.scan(x, valid, encoded, prompt_valid)
    cross = self.decoder.cross(encoded)
    return self.decoder(x, valid, 0, cross, prompt_valid)[0]

  def logits(self, states: Float[Array, "*rows D"]) -> Float[Array, "*rows V"]:
    """Returns float32 logits; ids without piece have `t5_layers.NO_PIECE`."""
    if self.config.tie_embeddings:
      logits = self.token_embedder.logits(states)
    else:
      logits = self.decoder.logits_dense(states)
    scale = self.config.width**-0.5 if self.config.scale_logits else 1.0
    logits = logits * scale
    pieces = self.config.num_pieces
    if not pieces:
      return logits
    has_piece = jnp.arange(logits.shape[-1]) < pieces
    return jnp.where(has_piece, logits, t5_layers.NO_PIECE)

  def prefill(
    self,
    prompt: Int[Array, "B P"],
    valid: Bool[Array, "B P"],
    num_new_tokens: int,
  ) -> tuple[Float[Array, "B D"], T5Cache]:
    """Encodes prompts [B, P] and reads the start token."""
    encoded, prompt_valid = self._encode(prompt, valid)
    cross = self.decoder.cross(encoded)
    c, batch = self.config, prompt.shape[0]
    empty = jnp.zeros(
      (batch, 1 + num_new_tokens, c.num_heads, c.head_dim), c.dtype
    )
    cache = T5Cache(
      keys=(empty,) * c.num_decoder_layers,
      values=(empty,) * c.num_decoder_layers,
      cross_keys=tuple(key for key, _ in cross),
      cross_values=tuple(value for _, value in cross),
      prompt_valid=prompt_valid,
      valid=jnp.zeros((batch, 1 + num_new_tokens), bool),
      column=jnp.zeros((), jnp.int32),
    )
    start = jnp.full((batch, 1), START_ID, jnp.int32)
    hidden, cache = self.decode_step(start, jnp.ones((batch, 1), bool), cache)
    return hidden[:, 0], cache

  def decode_step(
    self, tokens: Int[Array, "B L"], valid: Bool[Array, "B L"], cache: T5Cache
  ) -> tuple[Float[Array, "B L D"], T5Cache]:
    """Reads response tokens after those in the cache."""
    all_valid = jax.lax.dynamic_update_slice(
      cache.valid, valid, (0, cache.column)
    )
    hidden, states = self.decoder(
      self.token_embedder(tokens),
      all_valid,
      cache.column,
      list(zip(cache.cross_keys, cache.cross_values, strict=True)),
      cache.prompt_valid,
      list(zip(cache.keys, cache.values, strict=True)),
    )
    return hidden, cache.replace(
      keys=tuple(key for key, _ in states),
      values=tuple(value for _, value in states),
      valid=all_valid,
      column=cache.column + tokens.shape[1],
    )

  def _encode(
    self, prompt: Int[Array, "B P"], valid: Bool[Array, "B P"]
  ) -> tuple[Float[Array, "B columns D"], Bool[Array, "B columns"]]:
    """Returns states of prompts and end tokens, and valid."""
    pad = ((0, 0), (0, 1))
    tokens = jnp.pad(prompt, pad, constant_values=END_ID)
    valid = jnp.pad(valid, pad, constant_values=True)
    return self.encoder(self.token_embedder(tokens), valid), valid


class ScalarT5(nn.Module):
  """Trunk `decoder`, a whole T5, and a head [D, 1] initialized to zero.

  The names are those of `heads.ScalarDecoder`, so that both take their trunk
  from a language model in the same way.
  """

  config: T5Config
  options: layers.ForwardOptions = layers.DEFAULT_OPTIONS

  def setup(self):
    self.decoder = T5(self.config, self.options)
    self.head = layers.scalar_head()

  def __call__(
    self, prompt, prompt_valid, response, valid
  ) -> Float[Array, "BN columns"]:
    """Returns float32 scalars; see `T5.states`."""
    states = self.decoder.states(prompt, prompt_valid, response, valid)
    return self.head(states.astype(jnp.float32))[..., 0]


def _parts(batch):
  """Returns (prompt, its valid, response, its valid), one response per row.

  N consecutive responses of a GroupBatch have the same prompt.
  """
  if isinstance(batch, batches.GroupBatch):
    responses = (batch.response, batch.response_valid)
    flat = (x.reshape(-1, x.shape[-1]) for x in responses)
    return (batch.prompt, batch.prompt_valid, *flat)
  cut = batch.tokens.shape[1] - batch.weights.shape[1]
  return (
    batch.tokens[:, :cut],
    batch.valid[:, :cut],
    batch.tokens[:, cut:],
    batch.valid[:, cut:],
  )


def _rows(batch) -> tuple[int, ...]:
  """Returns the axes of a batch's responses, (B,) or (B, N)."""
  if isinstance(batch, batches.GroupBatch):
    return batch.response.shape[:2]
  return batch.tokens.shape[:1]


def _init(module: nn.Module):
  def init(key):
    tokens, valid = jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2), bool)
    return module.init(key, tokens, valid, tokens, valid)["params"]

  return init


def functions(
  config: T5Config,
  options: layers.ForwardOptions = layers.DEFAULT_OPTIONS,
) -> protocols.LanguageModel:
  """Returns the functions of a language model; see `architectures.language`."""
  module = T5(config, options)

  def method(name):
    def call(params, *args):
      if isinstance(params, protocols.PreparedParams):
        params = params.params
      return module.apply({"params": params}, *args, method=name)

    return call

  states = method("states")

  def hidden(params, batch):
    prompt, prompt_valid, response, valid = _parts(batch)
    # No state depends on the last response token.
    found = states(
      params, prompt, prompt_valid, response[:, :-1], valid[:, :-1]
    )
    return found.reshape(*_rows(batch), *found.shape[1:])

  def prepare(params):
    return protocols.PreparedParams(
      params=layers.cast_kernels(params, config.dtype)
    )

  return protocols.LanguageModel(
    init=_init(module),
    hidden=hidden,
    logits=method("logits"),
    prefill=method("prefill"),
    prefill_packed=None,
    decode_step=method("decode_step"),
    prepare=prepare,
    cache=None,
    vocab_size=config.vocab_size,
    max_length=config.max_length,
    row_devices=options.row_devices,
  )


def scalar_functions(
  config: T5Config,
  options: layers.ForwardOptions = layers.DEFAULT_OPTIONS,
) -> protocols.ScalarModel:
  """Returns the functions of a scalar model; see `architectures.scalar`."""
  module = ScalarT5(config, options)

  def states(params, batch):
    found = module.apply({"params": params}, *_parts(batch))
    return found.reshape(*_rows(batch), -1)

  def last(params, batch):
    prompt, prompt_valid, response, valid = _parts(batch)
    found = module.apply(
      {"params": params}, prompt, prompt_valid, response, valid
    )
    valid = jnp.pad(valid, ((0, 0), (1, 0)), constant_values=True)
    return layouts.last_real(found, valid).reshape(_rows(batch))

  return protocols.ScalarModel(
    init=_init(module), states=states, last=last, is_causal=False
  )
