# SPDX-License-Identifier: Apache-2.0
"""A Llama-like decoder-only language model: its module and functions.

Families differ in `architecture_options` only.
"""

from __future__ import annotations

import functools
from typing import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rlaif_jax.core import batches
from rlaif_jax.core import protocols
from rlaif_jax.models import architecture_options as options_lib
from rlaif_jax.models import cache as cache_lib
from rlaif_jax.models import continuations
from rlaif_jax.models import decoder_block
from rlaif_jax.models import decoder_config
from rlaif_jax.models import layers
from rlaif_jax.models import layouts
from rlaif_jax.models import prefix_attention
from rlaif_jax.models import self_attention


DecoderConfig = decoder_config.DecoderConfig


class Decoder(nn.Module):
  """Tokens to hidden states, with or without a cache; states to logits.

  A subclass may replace the layers.
  """

  config: DecoderConfig
  options: layers.ForwardOptions = layers.DEFAULT_OPTIONS

  block_type = decoder_block.Block

  def setup(self):
    c = self.config
    block = self.options.remat(self.block_type)
    self.embedding = layers.Embedding(c.vocab_size, c.width, c.dtype)
    self.blocks = [
      block(c, c.architecture_options.is_local(layer))
      for layer in range(c.num_layers)
    ]
    self.final_norm = layers.RMSNorm(
      c.norm_epsilon, c.dtype, offset=c.architecture_options.norm_offset
    )
    if not c.tie_embeddings:
      self.output = layers.Projection(
        (c.vocab_size,),
        ("embed", "vocab"),
        dtype=c.dtype,
        out_dtype=jnp.float32,
      )

  def __call__(
    self, tokens: Int[Array, "B L"], valid: Bool[Array, "B L"]
  ) -> Float[Array, "B L V"]:
    """Returns logits; creates all parameters."""
    return self.logits(self.read(tokens, valid))

  def read(
    self, tokens: Int[Array, "B L"], valid: Bool[Array, "B L"]
  ) -> Float[Array, "B L D"]:
    """Returns the final states of tokens."""
    kernel = self.options.kernel(*valid.shape[1:] * 2)
    layout = layouts.causal_layout(valid, kernel)
    if self.options.compute.scan_layers and not self.is_initializing():
      return self._scan(tokens, layout)
    return self._read(tokens, layout)[0]

  def read_packed(
    self, batch: batches.PackedBatch, endings: tuple[int, int] = (0, 0)
  ) -> Float[Array, "B T D"]:
    """Returns the final states of a packed batch's columns.

    The last layer computes these columns only.

    Args:
      batch: packed rows.
      endings: `layouts.Layout.continuations`. If there are any, the batch's
        columns are equally many of each.
    """
    layout = self._packed_layout(batch)
    layout = layout.replace(continuations=endings)
    if self.options.compute.scan_layers:
      states = self._scan(batch.tokens, layout)
      return layouts.take_columns(states, batch.columns)
    return self._read(batch.tokens, layout, batch.columns)[0]

  def logits(self, states: Float[Array, "*rows D"]) -> Float[Array, "*rows V"]:
    """Returns float32 logits."""
    if self.config.tie_embeddings:
      logits = self.embedding.logits(states)
    else:
      logits = self.output(states)
    cap = self.config.architecture_options.logit_softcap
    return options_lib.soft_cap(logits, cap)

  def prefill(
    self,
    prompt: Int[Array, "B P"],
    valid: Bool[Array, "B P"],
    num_new_tokens: int,
  ) -> tuple[Float[Array, "B D"], cache_lib.Cache]:
    """Reads prompts; see `protocols.LanguageModel`.

    The last layer computes the last valid column only.
    """
    last = jnp.where(valid, jnp.arange(prompt.shape[1])[None], 0)
    last = jnp.max(last, axis=1, keepdims=True)
    kernel = self.options.kernel(*valid.shape[1:] * 2)
    layout = layouts.causal_layout(valid, kernel)
    states, layer_caches = self._read(prompt, layout, last)
    columns = jnp.asarray(prompt.shape[1], jnp.int32)
    cache = cache_lib.Cache(
      layers=tuple(layer_caches),
      positions=jnp.where(valid, layout.positions, -1),
      next_column=columns,
      first_column=columns,
    )
    return states[:, 0], cache_lib.grow_cache(cache, num_new_tokens)

  def decode_step(
    self,
    tokens: Int[Array, "B L"],
    valid: Bool[Array, "B L"],
    cache: cache_lib.Cache,
    prefix: cache_lib.Cache | None = None,
    columns: Int[Array, "B T"] | None = None,
  ) -> tuple[Float[Array, "B T D"], cache_lib.Cache]:
    """Reads tokens after the cache; see `protocols.LanguageModel`."""
    positions, key_positions = cache.next_positions(valid, prefix)
    kernel = self.options.kernel(tokens.shape[1], key_positions.shape[1])
    layout = layouts.cached_layout(positions, key_positions, kernel)
    x, layer_caches = self._continue(tokens, layout, cache, prefix, columns)
    return x, cache.written(layer_caches, key_positions, tokens.shape[1])

  def read_after(
    self, prefix: cache_lib.Cache, batch: batches.PackedBatch
  ) -> tuple[
    Float[Array, "B T D"], Int[Array, "B L"], Sequence[cache_lib.LayerCache]
  ]:
    """Returns `read_packed` of rows that continue a prefix of one row.

    Also returns the positions, and the layers' keys and values.
    """
    layout = self._packed_layout(batch)
    positions = jnp.max(prefix.positions) + 1 + layout.positions
    columns = layout.queries.replace(positions=positions)
    layout = layout.replace(queries=columns, keys=columns)
    cache = cache_lib.init_cache(prefix, *batch.tokens.shape)
    x, layer_caches = self._continue(
      batch.tokens, layout, cache, prefix, batch.columns
    )
    return x, positions, layer_caches

  def _continue(
    self,
    tokens: Int[Array, "B L"],
    layout: layouts.Layout,
    cache: cache_lib.Cache,
    prefix: cache_lib.Cache | None,
    columns: Int[Array, "B T"] | None,
  ) -> tuple[Float[Array, "B T D"], list[cache_lib.LayerCache]]:
    """Returns final states after a cache and a prefix, and the new caches."""
    by_kind = self._layouts(layout)
    prefixes = [(None, None)] * len(self.blocks)
    if prefix is not None:
      seen = layouts.prefix_layout(layout, prefix.positions)
      prefixes = prefix_attention.of_layers(prefix, self._layouts(seen))
    x, layer_caches = self._embed(tokens), []
    for block, layer, own in zip(
      self.blocks, cache.layers, prefixes, strict=True
    ):
      x, layer = block(
        x,
        by_kind[block.is_local],
        self_attention.CacheSlice(
          layer, cache.next_column, own[block.is_local]
        ),
        columns if block is self.blocks[-1] else None,
      )
      x = self.options.shard(x)
      layer_caches.append(layer)
    return self.final_norm(x), layer_caches

  def _read(
    self,
    tokens: Int[Array, "B L"],
    layout: layouts.Layout,
    columns: Int[Array, "B T"] | None = None,
  ) -> tuple[Float[Array, "B T D"], list[cache_lib.LayerCache]]:
    """Returns final states of all columns or of some, and the new caches."""
    by_kind = self._layouts(layout)
    x, layer_caches = self._embed(tokens), []
    for block in self.blocks:
      own = columns if block is self.blocks[-1] else None
      x, layer = block(x, by_kind[block.is_local], None, own)
      x = self.options.shard(x)
      layer_caches.append(layer)
    return self.final_norm(x), layer_caches

  def _scan(
    self, tokens: Int[Array, "B L"], layout: layouts.Layout
  ) -> Float[Array, "B L D"]:
    """Returns the final states by a loop over layers; see `layers.scanned`."""
    by_kind = self._layouts(layout)
    period = self.config.architecture_options.period or len(self.blocks)
    looped = len(self.blocks) // period * period
    templates = [
      self.block_type(self.config, block.is_local, parent=None)
      for block in self.blocks[:period]
    ]

    def apply(params, x):
      for block, own in zip(templates, params, strict=True):
        x, _ = block.apply({"params": own}, x, by_kind[block.is_local])
      return x

    own = [block.variables["params"] for block in self.blocks[:looped]]
    x = layers.scanned(
      apply,
      [tuple(own[i : i + period]) for i in range(0, looped, period)],
      self._embed(tokens),
      options=self.options,
      dtype=self.config.dtype,
    )
    for block in self.blocks[looped:]:
      x, _ = block(x, by_kind[block.is_local])
      x = self.options.shard(x)
    return self.final_norm(x)

  def _embed(self, tokens: Int[Array, "B L"]) -> Float[Array, "B L D"]:
    x = self.embedding(tokens)
    if self.config.architecture_options.embedding_scale:
      # The factor is rounded to the compute type first, as in Gemma's code.
      x = x * jnp.asarray(self.config.width**0.5, x.dtype)
    return self.options.shard(x)

  def _packed_layout(self, batch: batches.PackedBatch) -> layouts.Layout:
    kernel = self.options.kernel(*batch.tokens.shape[1:] * 2)
    return layouts.packed_layout(
      batch.segment_ids, batch.continuation_ids, kernel
    )

  def _layouts(self, layout: layouts.Layout) -> tuple[layouts.Layout, ...]:
    """Returns the layouts of global and of local layers."""
    window = self.config.architecture_options.window
    return layout, layout.within(window) if window else layout


def _prepare(
  config: DecoderConfig, params: protocols.Params
) -> protocols.PreparedParams:
  weights = layers.cast_kernels(params, config.dtype)
  if config.tie_embeddings:
    embedding = layers.with_head(params["embedding"], config.dtype)
    weights = {**weights, "embedding": embedding}
  return protocols.PreparedParams(params=weights)


def functions(
  config: DecoderConfig,
  options: layers.ForwardOptions = layers.DEFAULT_OPTIONS,
  *,
  module_type: type[Decoder] = Decoder,
) -> protocols.LanguageModel:
  """Returns the functions of a decoder; see `architectures.language`."""
  module = module_type(config, options)

  def init(key):
    tokens = jnp.zeros((1, 2), jnp.int32)
    return module.init(key, tokens, jnp.ones((1, 2), bool))["params"]

  def method(name):
    def call(params, *args):
      if isinstance(params, protocols.PreparedParams):
        params = params.params
      return module.apply({"params": params}, *args, method=name)

    return call

  read, read_packed = method("read"), method("read_packed")
  read_after = method("read_after")

  def hidden(params, batch, prefix=None):
    if isinstance(batch, batches.TokenBatch):
      begin = batch.tokens.shape[1] - batch.weights.shape[1] - 1
      return read(params, batch.tokens, batch.valid)[:, begin:-1]
    if isinstance(batch, batches.GroupBatch):
      rows = continuations.pack(batch)
      states = read_packed(params, rows, batch.response.shape[1:])
      return states.reshape(*batch.response.shape, -1)
    if prefix is None:
      return read_packed(params, batch)
    return read_after(params, prefix, batch)[0]

  def prefill_packed(params, batch, prompts, num_new_tokens, prefix):
    states, positions, layer_caches = read_after(params, prefix, batch)
    cache = cache_lib.unpack(positions, layer_caches, prompts)
    # Which of the batch's columns is the last of each prompt.
    rows, length = batch.tokens.shape
    columns = batch.columns + length * jnp.arange(rows)[:, None]
    last = jnp.max(prompts, axis=1)
    index = jnp.argmax(columns.reshape(1, -1) == last[:, None], axis=1)
    states = states.reshape(-1, states.shape[-1])[index]
    return states, cache_lib.grow_cache(cache, num_new_tokens)

  return protocols.LanguageModel(
    init=init,
    hidden=hidden,
    logits=method("logits"),
    prefill=method("prefill"),
    prefill_packed=prefill_packed,
    decode_step=method("decode_step"),
    prepare=functools.partial(_prepare, config),
    cache=protocols.CacheFunctions(
      init_cache=cache_lib.init_cache,
      grow_cache=cache_lib.grow_cache,
      insert_row=cache_lib.insert_row,
    ),
    vocab_size=config.vocab_size,
    max_length=config.max_length,
    row_devices=options.row_devices,
  )
