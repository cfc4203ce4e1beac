# SPDX-License-Identifier: Apache-2.0
"""A Llama-like decoder-only language model: one frozen config, one module.

Owns the model and the plain functions that the engine uses of it
(`functions`); knows nothing of losses, sampling or files.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from rlaif_jax.core import protocols
from rlaif_jax.models import attention
from rlaif_jax.models import prefix_attention
from rlaif_jax.models import continuations
from rlaif_jax.models import cache as cache_lib
from rlaif_jax.models import decoder_block
from rlaif_jax.models import layers
from rlaif_jax.models import self_attention
from rlaif_jax.models import architecture_options as variant_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig:
  """Sizes of a decoder. `max_length` bounds prompt + response in tokens.

  `variant` has what families do differently. `match_gain` > 0 starts key
  kernels as copies of query kernels, both times this gain, so that from the
  first step a token attends to its like (after the mimetic initialisation of
  arXiv:2305.09828); it does not change what a model computes from given
  parameters.
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
  variant: variant_lib.Variant = variant_lib.Variant()
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
    if self.variant.previous_key_heads > self.num_kv_heads:
      raise ValueError(
        f"Variant.previous_key_heads is {self.variant.previous_key_heads}; it "
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


class _Place(NamedTuple):
  """Where the columns [B, L] of rows stand: their positions, which are real,
  who sees whom [B, L, L], `before` of `self_attention`, and the number
  and length of the branches that rows end with."""

  positions: jax.Array
  valid: jax.Array
  mask: jax.Array
  before: jax.Array | None = None
  branches: tuple[int, int] = (0, 0)


class Decoder(nn.Module):
  """Tokens to hidden states, with or without a cache; hidden to logits."""

  config: DecoderConfig
  how: layers.Execution = layers.PLAIN

  def setup(self):
    c = self.config
    block = self.how.block(decoder_block.Block)
    self.embedding = layers.Embedding(c.vocab_size, c.width, c.dtype)
    self.blocks = [
      block(c, c.variant.is_local(layer)) for layer in range(c.num_layers)
    ]
    self.final_norm = layers.RMSNorm(
      c.norm_epsilon, c.dtype, offset=c.variant.norm_offset
    )
    if not c.tie_embeddings:
      self.output = layers.Projection(
        (c.vocab_size,),
        ("embed", "vocab"),
        dtype=c.dtype,
        out_dtype=jnp.float32,
      )

  def __call__(self, tokens: jax.Array, valid: jax.Array) -> jax.Array:
    """Tokens and valid [B, L] -> logits [B, L, V]; makes all parameters."""
    return self.logits(self.read(tokens, valid))

  def read(self, tokens: jax.Array, valid: jax.Array) -> jax.Array:
    """[B, L] -> final hidden states [B, L, D]."""
    if self.how.scan_layers and not self.is_initializing():
      return self._scan(tokens, self._in_line(valid))
    return self._read(tokens, self._in_line(valid))[0]

  def read_branches(
    self,
    tokens: jax.Array,
    document: jax.Array,
    branch: jax.Array,
    columns: jax.Array,
    branches: tuple[int, int] = (0, 0),
  ) -> jax.Array:
    """Final states [B, T, D] of columns [B, T] of rows [B, L] that branch.

    See `attention.branch_mask`. The last layer asks for these columns alone.
    `branches`: (number, length) of those at the end of each row, whose columns
    then are the ones that are asked for, equally many of each.
    """
    place = self._branching(document, branch)._replace(branches=branches)
    if self.how.scan_layers:
      return attention.take_columns(self._scan(tokens, place), columns)
    return self._read(tokens, place, columns)[0]

  def logits(self, hidden: jax.Array) -> jax.Array:
    """[..., D] -> float32 logits [..., V]."""
    if self.config.tie_embeddings:
      logits = self.embedding.logits(hidden)
    else:
      logits = self.output(hidden)
    return variant_lib.soft_cap(logits, self.config.variant.logit_softcap)

  def prefill(
    self, prompt: jax.Array, valid: jax.Array, room: int
  ) -> tuple[jax.Array, cache_lib.Cache]:
    """Reads prompts [B, P]; the cache has room for `room` tokens more.

    The last layer asks for the last real column alone.
    """
    last = jnp.where(valid, jnp.arange(prompt.shape[1])[None], 0)
    last = jnp.max(last, axis=1, keepdims=True)
    hidden, states = self._read(prompt, self._in_line(valid), last)
    keys, values, last_keys = zip(*states, strict=True)
    columns = jnp.asarray(prompt.shape[1], jnp.int32)
    places = jnp.where(valid, attention.positions_from_valid(valid), -1)
    cache = cache_lib.Cache(keys, values, last_keys, places, columns, columns)
    return hidden[:, 0], cache_lib.widen(cache, room)

  def extend(
    self,
    tokens: jax.Array,
    valid: jax.Array,
    cache: cache_lib.Cache,
    beginning: cache_lib.Cache | None = None,
    columns: jax.Array | None = None,
  ) -> tuple[jax.Array, cache_lib.Cache]:
    """Reads [B, L] more tokens after those in the cache.

    With `beginning`, the cache of one row, all rows go on after that; with
    `columns` [B, T], states [B, T, D] of these alone.
    """
    positions, places = cache.placed(valid, beginning)
    # By position: columns may stand in any order.
    before = places[:, None, :] <= positions[:, :, None]
    place = _Place(positions, valid, before & (places >= 0)[:, None, :])
    x, states = self._go_on(tokens, place, places, cache, beginning, columns)
    return x, cache.written(states, places, tokens.shape[1])

  def read_after(
    self,
    beginning: cache_lib.Cache,
    tokens: jax.Array,
    document: jax.Array,
    branch: jax.Array,
    columns: jax.Array,
  ) -> tuple[jax.Array, jax.Array, list[Any]]:
    """`read_branches` of documents that go on after a beginning of one row.

    Also the positions [B, L], and the states of the layers.
    """
    place = self._branching(document, branch)
    start = jnp.max(beginning.places) + 1
    place = place._replace(positions=start + place.positions)
    cache = cache_lib.begin(beginning, *tokens.shape)
    x, states = self._go_on(
      tokens, place, place.positions, cache, beginning, columns
    )
    return x, place.positions, states

  def _go_on(
    self, tokens, place: _Place, key_positions, cache, beginning, asked
  ):
    """Final states after a cache and a beginning, and those of the layers."""
    masks = self._masks(place.mask, place.positions, key_positions)
    begun = [(None, None)] * len(self.blocks)
    if beginning is not None:
      real = (beginning.places >= 0)[:, None]
      first_masks = self._masks(real, place.positions, beginning.places)
      begun = prefix_attention.of_layers(beginning, first_masks)
    rest = (place.positions, place.valid)
    x = self._embed(tokens)
    states = []
    for block, own, first in zip(
      self.blocks, cache.layers(), begun, strict=True
    ):
      mask, first, columns = masks[block.is_local], first[block.is_local], None
      if asked is not None and block is self.blocks[-1]:
        mask, columns = attention.take_columns(mask, asked), asked
        first = first and first.asked_by(asked)
      cached = self_attention.Cached(*own, cache.column, first)
      x, state = block(x, *rest, mask, cached, place.before, columns)
      x = self.how.split(x)
      states.append(state)
    return self.final_norm(x), states

  def _in_line(self, valid) -> _Place:
    """One text a row."""
    positions = attention.positions_from_valid(valid)
    return _Place(positions, valid, attention.causal_mask(valid))

  def _branching(self, document, branch) -> _Place:
    """Several texts a row, whose endings branch."""
    mask = attention.branch_mask(document, branch)
    return _Place(
      positions=jnp.maximum(jnp.sum(mask, axis=2) - 1, 0),
      valid=document > 0,
      mask=mask,
      before=attention.previous_columns(mask),
    )

  def _read(self, tokens, place: _Place, columns=None):
    """Final states [B, L, D], or of columns [B, T] alone, and the layers'."""
    rest = (place.positions, place.valid)
    masks = self._blocks(place)
    x = self._embed(tokens)
    states = []
    for block in self.blocks:
      mask, asked = masks[block.is_local], None
      if columns is not None and block is self.blocks[-1]:
        mask, asked = attention.asked_by(mask, columns), columns
      x, state = block(x, *rest, mask, None, place.before, asked)
      x = self.how.split(x)
      states.append(state)
    return self.final_norm(x), states

  def _scan(self, tokens, place: _Place):
    """`_read` without the states of layers; see `layers.scanned`."""
    masks = self._blocks(place)
    rest = (place.positions, place.valid)
    unit = self.config.variant.period
    looped = len(self.blocks) // unit * unit
    alike = [
      decoder_block.Block(self.config, block.is_local, parent=None)
      for block in self.blocks[:unit]
    ]

    def apply(params, x):
      for block, own in zip(alike, params, strict=True):
        local = masks[block.is_local]
        x, _ = block.apply({"params": own}, x, *rest, local, None, place.before)
      return x

    own = [block.variables["params"] for block in self.blocks[:looped]]
    x = layers.scanned(
      apply,
      [tuple(own[i : i + unit]) for i in range(0, looped, unit)],
      self._embed(tokens),
      how=self.how,
      dtype=self.config.dtype,
    )
    for block in self.blocks[looped:]:
      x, _ = block(x, *rest, masks[block.is_local], None, place.before)
      x = self.how.split(x)
    return self.final_norm(x)

  def _embed(self, tokens):
    x = self.embedding(tokens)
    if self.config.variant.embedding_scale:
      # Rounded to the compute type first, as the family's authors do.
      x = x * jnp.asarray(self.config.width**0.5, x.dtype)
    return self.how.split(x)

  def _blocks(self, place: _Place) -> tuple[attention.Blocks, ...]:
    """`_masks` of whole rows."""
    masks = self._masks(place.mask, place.positions, place.positions)
    return tuple(attention.Blocks(mask, place.branches) for mask in masks)

  def _masks(self, mask, positions, key_positions):
    """(mask of global layers, mask of local layers), each [B, L, S]."""
    window = self.config.variant.window
    if not window:
      return mask, mask
    near = attention.within_window(positions, key_positions, window)
    return mask, mask & near


def functions(
  config: DecoderConfig, how: layers.Execution = layers.PLAIN
) -> protocols.LanguageModel:
  """The plain functions of a decoder; see `architectures.language`."""
  module = Decoder(config, how)

  def method(name):
    def call(params, *args):
      if isinstance(params, protocols.Prepared):
        params = params.weights
      return module.apply({"params": params}, *args, method=name)

    return call

  read, read_branches = method("read"), method("read_branches")

  def hidden_group(params, batch):
    row = continuations.row_of(batch)
    columns = continuations.columns_before(batch)
    states = read_branches(params, *row, columns, batch.response.shape[1:])
    return states.reshape(*batch.response.shape, -1)

  def hidden_packed(params, batch):
    return read_branches(params, *_row(batch), batch.source)

  def read_after(params, beginning, batch):
    return method("read_after")(params, beginning, *_row(batch), batch.last)

  def unpack(params, beginning, batch, prompts, room):
    hidden, *states = read_after(params, beginning, batch)
    cache = cache_lib.unpack(*states, prompts.columns)
    hidden = hidden.reshape(-1, hidden.shape[-1])[prompts.number]
    return hidden, cache_lib.widen(cache, room)

  def hidden(params, batch):
    begin = batch.tokens.shape[1] - batch.weights.shape[1] - 1
    return read(params, batch.tokens, batch.valid)[:, begin:-1]

  def prepare(params):
    weights = layers.as_products_read(params, config.dtype)
    if config.tie_embeddings:
      embedding = layers.with_head(params["embedding"], config.dtype)
      weights = {**weights, "embedding": embedding}
    return protocols.Prepared(weights=weights)

  return protocols.LanguageModel(
    init=lambda key: _init(module, key),
    hidden=hidden,
    hidden_group=hidden_group,
    hidden_packed=hidden_packed,
    hidden_after=lambda *args: read_after(*args)[0],
    unpack=unpack,
    logits=method("logits"),
    prepare=prepare,
    prefill=method("prefill"),
    extend=method("extend"),
    begin=cache_lib.begin,
    widen=cache_lib.widen,
    put_row=cache_lib.put_row,
    vocab_size=config.vocab_size,
    max_length=config.max_length,
    is_causal=True,
    row_devices=how.row_devices,
  )


def _row(batch):
  return batch.tokens, batch.document, batch.branch


def _init(module: Decoder, key: jax.Array):
  """Boxed parameters; see `DecoderConfig.match_gain`."""
  config, tokens = module.config, jnp.zeros((1, 2), jnp.int32)
  params = module.init(key, tokens, jnp.ones((1, 2), bool))["params"]
  if config.match_gain:
    for layer in range(config.num_layers):
      self_attention.match_keys_to_queries(
        params[f"blocks_{layer}"]["attention"], config.match_gain
      )
  return params
