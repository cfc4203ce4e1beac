# SPDX-License-Identifier: Apache-2.0
"""T5 1.0, T5 1.1 and Flan-T5: an encoder reads the prompt, a decoder responds.

Parameter names, shapes and logical axes are those of T5X's T5 1.1, so that its
checkpoints need no renaming (arXiv:1910.10683, arXiv:2002.05202).
"""

from __future__ import annotations

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from rlaif_jax.core import protocols
from rlaif_jax.models import attention
from rlaif_jax.models import layers
from rlaif_jax.models import t5_layers

T5Config = t5_layers.T5Config

# The decoder begins with T5's pad id, and the encoder's text ends with its
# end id: so the public models were pretrained.
START_ID = 0
END_ID = 1


@flax.struct.dataclass
class Cache:
  """What a response needs of its prompt and of its own first columns.

  keys, values: [B, 1 + room, H, C] per decoder layer; cross_keys,
  cross_values: [B, P + 1, H, C]; prompt_valid [B, P + 1] and valid
  [B, 1 + room] bool; column: the next column to write.
  """

  keys: tuple[jax.Array, ...]
  values: tuple[jax.Array, ...]
  cross_keys: tuple[jax.Array, ...]
  cross_values: tuple[jax.Array, ...]
  prompt_valid: jax.Array
  valid: jax.Array
  column: jax.Array


class T5(nn.Module):
  """Prompt and response tokens to the response's states; states to logits."""

  config: T5Config
  how: layers.Execution = layers.PLAIN

  def setup(self):
    c = self.config
    self.token_embedder = t5_layers.TokenEmbedder(c)
    self.encoder = t5_layers.Encoder(c, self.how)
    self.decoder = t5_layers.ResponseDecoder(c, self.how)

  def __call__(self, prompt, prompt_valid, response, valid) -> jax.Array:
    """Logits [B, 1 + R, V]; makes all parameters."""
    return self.logits(self.states(prompt, prompt_valid, response, valid))

  def states(self, prompt, prompt_valid, response, valid) -> jax.Array:
    """[B, P] and [B G, R] -> [B G, 1 + R, D]: before each column, and after.

    Responses of one prompt stand together.
    """
    encoded, prompt_valid = self._encode(prompt, prompt_valid)
    tokens = jnp.pad(response, ((0, 0), (1, 0)), constant_values=START_ID)
    valid = jnp.pad(valid, ((0, 0), (1, 0)), constant_values=True)
    x = self.token_embedder(tokens)
    if self.how.scan_layers and not self.is_initializing():
      return self.decoder.scan(x, valid, encoded, prompt_valid)
    cross = self.decoder.cross(encoded)
    return self.decoder(x, valid, 0, cross, prompt_valid)[0]

  def logits(self, hidden: jax.Array) -> jax.Array:
    """[..., D] -> float32 logits [..., V]."""
    if self.config.tie_embeddings:
      logits = self.token_embedder.logits(hidden)
    else:
      logits = self.decoder.logits_dense(hidden)
    scale = self.config.width**-0.5 if self.config.scale_logits else 1.0
    return logits * scale

  def prefill(self, prompt, valid, room: int) -> tuple[jax.Array, Cache]:
    """Encodes prompts [B, P] and reads the start token."""
    encoded, prompt_valid = self._encode(prompt, valid)
    cross = self.decoder.cross(encoded)
    c, batch = self.config, prompt.shape[0]
    empty = jnp.zeros((batch, 1 + room, c.num_heads, c.head_dim), c.dtype)
    cache = Cache(
      keys=(empty,) * c.num_decoder_layers,
      values=(empty,) * c.num_decoder_layers,
      cross_keys=tuple(key for key, _ in cross),
      cross_values=tuple(value for _, value in cross),
      prompt_valid=prompt_valid,
      valid=jnp.zeros((batch, 1 + room), bool),
      column=jnp.zeros((), jnp.int32),
    )
    start = jnp.full((batch, 1), START_ID, jnp.int32)
    hidden, cache = self.extend(start, jnp.ones((batch, 1), bool), cache)
    return hidden[:, 0], cache

  def extend(self, tokens, valid, cache: Cache) -> tuple[jax.Array, Cache]:
    """Reads [B, L] response tokens after those in the cache."""
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

  def _encode(self, prompt, valid) -> tuple[jax.Array, jax.Array]:
    """States of [prompt, end] and which are real; [B, P + 1, D], [B, P + 1]."""
    pad = ((0, 0), (0, 1))
    tokens = jnp.pad(prompt, pad, constant_values=END_ID)
    valid = jnp.pad(valid, pad, constant_values=True)
    return self.encoder(self.token_embedder(tokens), valid), valid


class ScalarT5(nn.Module):
  """Trunk `decoder` (a whole T5) and a zero-initialised head [D, 1].

  The names are those of `heads.ScalarDecoder`, so that either takes its trunk
  from a language model in one way.
  """

  config: T5Config
  how: layers.Execution = layers.PLAIN

  def setup(self):
    self.decoder = T5(self.config, self.how)
    self.head = layers.scalar_head()

  def __call__(self, prompt, prompt_valid, response, valid) -> jax.Array:
    """float32 [B, 1 + R], before each response column and after the last."""
    states = self.decoder.states(prompt, prompt_valid, response, valid)
    return self.head(states.astype(jnp.float32))[..., 0]


def _parts(batch):
  """(prompt, its valid, response, its valid) of a TokenBatch."""
  cut = batch.tokens.shape[1] - batch.weights.shape[1]
  return (
    batch.tokens[:, :cut],
    batch.valid[:, :cut],
    batch.tokens[:, cut:],
    batch.valid[:, cut:],
  )


def _flat(responses: jax.Array) -> jax.Array:
  """[B, G, R] -> [B G, R]."""
  return responses.reshape(-1, responses.shape[-1])


def _init(module: nn.Module):
  def init(key):
    tokens, valid = jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2), bool)
    return module.init(key, tokens, valid, tokens, valid)["params"]

  return init


def functions(
  config: T5Config, how: layers.Execution = layers.PLAIN
) -> protocols.LanguageModel:
  """The plain functions of an encoder-decoder; see `architectures`."""
  module = T5(config, how)

  def method(name):
    def call(params, *args):
      if isinstance(params, protocols.Prepared):
        params = params.weights
      return module.apply({"params": params}, *args, method=name)

    return call

  states = method("states")

  def hidden(params, batch):
    prompt, prompt_valid, response, valid = _parts(batch)
    # The last response token is read by nobody.
    return states(params, prompt, prompt_valid, response[:, :-1], valid[:, :-1])

  def hidden_group(params, batch):
    response, valid = _flat(batch.response), _flat(batch.response_valid)
    prompt = (batch.prompt, batch.prompt_valid)
    found = states(params, *prompt, response[:, :-1], valid[:, :-1])
    return found.reshape(*batch.response.shape, -1)

  def prepare(params):
    return protocols.Prepared(
      weights=layers.as_products_read(params, config.dtype)
    )

  return protocols.LanguageModel(
    init=_init(module),
    hidden=hidden,
    hidden_group=hidden_group,
    hidden_packed=None,
    hidden_after=None,
    unpack=None,
    logits=method("logits"),
    prepare=prepare,
    prefill=method("prefill"),
    extend=method("extend"),
    begin=None,
    widen=None,
    put_row=None,
    vocab_size=config.vocab_size,
    max_length=config.max_length,
    is_causal=False,
    row_devices=how.row_devices,
  )


def scalar_functions(
  config: T5Config, how: layers.Execution = layers.PLAIN
) -> protocols.ScalarModel:
  """The plain functions of a reward model or value network."""
  module = ScalarT5(config, how)

  def states(params, batch):
    return module.apply({"params": params}, *_parts(batch))

  def after_last(states, valid):
    real = jnp.pad(valid, ((0, 0), (1, 0)), constant_values=True)
    return attention.last_real(states, real)

  def last(params, batch):
    return after_last(states(params, batch), _parts(batch)[3])

  def flat_states(params, batch):
    prompt = (batch.prompt, batch.prompt_valid)
    response, valid = _flat(batch.response), _flat(batch.response_valid)
    return module.apply({"params": params}, *prompt, response, valid)

  def states_group(params, batch):
    found = flat_states(params, batch)
    return found.reshape(*batch.response.shape[:2], -1)

  def last_group(params, batch):
    found = flat_states(params, batch)
    last = after_last(found, _flat(batch.response_valid))
    return last.reshape(batch.response.shape[:2])

  return protocols.ScalarModel(
    init=_init(module),
    states=states,
    last=last,
    states_group=states_group,
    last_group=last_group,
    last_packed=None,
  )
