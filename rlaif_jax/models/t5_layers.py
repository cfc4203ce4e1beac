# SPDX-License-Identifier: Apache-2.0
"""The two stacks of T5, with T5X's parameter names."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtyping import Array, Bool, Float, Int

from rlaif_jax.models import attention
from rlaif_jax.models import layers
from rlaif_jax.models import layouts
from rlaif_jax.models import relative_bias
from rlaif_jax.models import t5_config

KeysValues = tuple[Float[Array, "B S H C"], Float[Array, "B S H C"]]
NORM_EPSILON = 1e-6  # Of every public T5.
T5Config = t5_config.T5Config
# In place of the logit of an id without piece; finite: 0 times it is 0.
NO_PIECE = -1e9


def _relative_bias(
  config: T5Config, *, both_ways: bool
) -> relative_bias.RelativeBias:
  return relative_bias.RelativeBias(
    num_heads=config.num_heads,
    num_buckets=config.relpos_buckets,
    max_distance=config.relpos_max_distance,
    both_ways=both_ways,
  )


class T5Attention(nn.Module):
  """Multi-head attention; the initialization replaces scaled scores."""

  config: T5Config

  def setup(self):
    c = self.config
    inner = c.num_heads * c.head_dim

    def inward(scale=1.0):
      return layers.Projection(
        (inner,), ("embed", "joined_kv"), dtype=c.dtype, scale=scale
      )

    self.query = inward(c.head_dim**-0.5)
    self.key, self.value = inward(), inward()
    self.out = layers.Projection(
      (c.width,), ("joined_kv", "embed"), dtype=c.dtype
    )

  def keys_values(self, x: Float[Array, "B S D"]) -> KeysValues:
    """Returns keys and values [B, S, H, C] of x [B, S, D]."""
    return self._split(self.key(x)), self._split(self.value(x))

  def read(
    self,
    x: Float[Array, "BN L D"],
    key: Float[Array, "B S H C"],
    value: Float[Array, "B S H C"],
    layout: layouts.Layout,
    biases: relative_bias.Biases | None = None,
  ) -> Float[Array, "BN L D"]:
    """Attends from x to keys and values.

    N consecutive rows of x share a row of keys and values.

    Args:
      x: states of the queries.
      key: keys.
      value: values.
      layout: of the queries [B, N L] and the keys.
      biases: added to the scores.
    """
    rows = (key.shape[0], -1, x.shape[-1])
    query = self._split(self.query(x.reshape(rows)))
    key, value = map(attention.heads_first, (key, value))
    out = attention.attend_chunked(
      query, key, value, layout, scale=1.0, biases=biases
    )
    return self.out(out.reshape(*x.shape[:2], -1))

  def _split(self, x: Float[Array, "B S HC"]) -> Float[Array, "B S H C"]:
    return x.reshape(*x.shape[:2], self.config.num_heads, self.config.head_dim)


class T5MLP(nn.Module):
  """wo(act(wi_0(x)) * wi_1(x)), as in T5 1.1, or wo(act(wi(x))) of 1.0."""

  config: T5Config

  @nn.compact
  def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
    c = self.config

    def inward(name):
      return layers.Projection(
        (c.mlp_dim,), ("embed", "mlp"), dtype=c.dtype, name=name
      )(x)

    name = c.mlp_activation
    activation = getattr(nn, name) if name != "linear" else lambda x: x
    if c.gated:
      inner = activation(inward("wi_0")) * inward("wi_1")
    else:
      inner = activation(inward("wi"))
    outward = layers.Projection(
      (c.width,), ("mlp", "embed"), dtype=c.dtype, name="wo"
    )
    return outward(inner)


def _norm(config: T5Config) -> layers.RMSNorm:
  return layers.RMSNorm(NORM_EPSILON, config.dtype)


class EncoderLayer(nn.Module):
  """Self-attention over the whole prompt, and an MLP."""

  config: T5Config

  def setup(self):
    self.pre_attention_layer_norm = _norm(self.config)
    self.attention = T5Attention(self.config)
    self.pre_mlp_layer_norm = _norm(self.config)
    self.mlp = T5MLP(self.config)

  def __call__(self, x, layout, biases):
    normed = self.pre_attention_layer_norm(x)
    keys_values = self.attention.keys_values(normed)
    x = x + self.attention.read(normed, *keys_values, layout, biases)
    return x + self.mlp(self.pre_mlp_layer_norm(x))


class DecoderLayer(nn.Module):
  """Causal self-attention, cross-attention to the prompt, and an MLP."""

  config: T5Config

  def setup(self):
    self.pre_self_attention_layer_norm = _norm(self.config)
    self.self_attention = T5Attention(self.config)
    self.pre_cross_attention_layer_norm = _norm(self.config)
    self.encoder_decoder_attention = T5Attention(self.config)
    self.pre_mlp_layer_norm = _norm(self.config)
    self.mlp = T5MLP(self.config)

  def __call__(self, x, each, biases, cross, cached=None):
    """Applies the layer.

    Args:
      x: [B N, L, D].
      each: layouts of self-attention and of cross-attention.
      biases: of self-attention.
      cross: keys and values of the prompts.
      cached: (keys, values, column) to write into, if any.

    Returns:
      x, and the keys and values of self-attention.
    """
    normed = self.pre_self_attention_layer_norm(x)
    key, value = self.self_attention.keys_values(normed)
    if cached is not None:
      keys, values, column = cached
      start = (0, column, 0, 0)
      key = jax.lax.dynamic_update_slice(keys, key.astype(keys.dtype), start)
      value = jax.lax.dynamic_update_slice(
        values, value.astype(values.dtype), start
      )
    x = x + self.self_attention.read(normed, key, value, each[0], biases)
    normed = self.pre_cross_attention_layer_norm(x)
    x = x + self.encoder_decoder_attention.read(normed, *cross, each[1])
    return x + self.mlp(self.pre_mlp_layer_norm(x)), (key, value)


class Encoder(nn.Module):
  """The encoder; it reads prompts."""

  config: T5Config
  options: layers.ForwardOptions = layers.DEFAULT_OPTIONS

  def setup(self):
    c = self.config
    self.relpos_bias = _relative_bias(c, both_ways=True)
    layer = self.options.remat(EncoderLayer)
    self.layers = [layer(c) for _ in range(c.num_layers)]
    self.encoder_norm = _norm(c)

  def __call__(
    self, x: Float[Array, "B S D"], valid: Bool[Array, "B S"]
  ) -> Float[Array, "B S D"]:
    """Returns final states; valid columns attend to all valid columns."""
    columns = layouts.columns_of(valid)
    columns = columns.replace(order=columns.order * 0)
    kernel = self.options.kernel(*valid.shape[1:] * 2)
    layout = layouts.layout_of(columns.queries(), columns, kernel)
    biases = self.relpos_bias(layout)
    if self.options.compute.scan_layers and not self.is_initializing():
      template = EncoderLayer(self.config, parent=None)
      x = layers.scanned(
        lambda own, x: template.apply({"params": own}, x, layout, biases),
        [layer.variables["params"] for layer in self.layers],
        x,
        options=self.options,
        dtype=self.config.dtype,
      )
    else:
      x = self.options.shard(x)
      for layer in self.layers:
        x = self.options.shard(layer(x, layout, biases))
    return self.encoder_norm(x)


class ResponseDecoder(nn.Module):
  """The decoder; it reads and generates responses."""

  config: T5Config
  options: layers.ForwardOptions = layers.DEFAULT_OPTIONS

  def setup(self):
    c = self.config
    self.relpos_bias = _relative_bias(c, both_ways=False)
    layer = self.options.remat(DecoderLayer)
    self.layers = [layer(c) for _ in range(c.num_decoder_layers)]
    self.decoder_norm = _norm(c)
    if not c.tie_embeddings:
      self.logits_dense = layers.Projection(
        (c.vocab_size,),
        ("embed", "vocab"),
        dtype=c.dtype,
        out_dtype=jnp.float32,
      )

  def cross(self, encoded: Float[Array, "B S D"]) -> list[KeysValues]:
    """Returns the prompts' keys and values for each layer."""
    return [
      layer.encoder_decoder_attention.keys_values(encoded)
      for layer in self.layers
    ]

  def __call__(self, x, all_valid, column, cross, prompt_valid, cached=None):
    """Reads columns [column, column + L) of responses.

    Args:
      x: [B N, L, D] embeddings of these columns.
      all_valid: [B N, S] bool of all columns of the responses.
      column: first column.
      cross: keys and values of the prompts for each layer; see `cross`.
      prompt_valid: [B, P] bool.
      cached: (keys, values) to write into for each layer, if any.

    Returns:
      Final states [B N, L, D], and keys and values for each layer.
    """
    length = x.shape[1]
    each = self._layouts(length, all_valid, column, prompt_valid)
    biases = self.relpos_bias(each[0])
    x, states = self.options.shard(x), []
    for i, layer in enumerate(self.layers):
      state = None if cached is None else (*cached[i], column)
      x, state = layer(x, each, biases, cross[i], state)
      x = self.options.shard(x)
      states.append(state)
    return self.decoder_norm(x), states

  def scan(self, x, valid, encoded, prompt_valid) -> Float[Array, "BN L D"]:
    """Returns final states of whole responses; see `layers.scanned`."""
    each = self._layouts(x.shape[1], valid, 0, prompt_valid)
    biases = self.relpos_bias(each[0])
    template = DecoderLayer(self.config, parent=None)

    def apply(own, x):
      read = template.bind({"params": own})
      cross = read.encoder_decoder_attention.keys_values(encoded)
      return read(x, each, biases, cross)[0]

    x = layers.scanned(
      apply,
      [layer.variables["params"] for layer in self.layers],
      x,
      options=self.options,
      dtype=self.config.dtype,
    )
    return self.decoder_norm(x)

  def _layouts(self, length, all_valid, column, prompt_valid):
    """Returns the layouts of self- and cross-attention."""
    keys = layouts.columns_of(all_valid)
    queries = jax.tree.map(
      lambda x: jax.lax.dynamic_slice_in_dim(x, column, length, 1),
      keys.queries(),
    )
    kernel = self.options.kernel(length, all_valid.shape[1])
    own = layouts.layout_of(queries, keys, kernel)
    # Several responses may share a prompt; see `T5Attention.read`.
    rows = prompt_valid.shape[0]
    zero = jnp.zeros((rows, all_valid.shape[0] // rows * length), jnp.int32)
    queries = layouts.Columns(zero, zero, zero + 1, zero)
    keys = layouts.columns_of(prompt_valid)
    kernel = self.options.kernel(zero.shape[1], prompt_valid.shape[1])
    keys = keys.replace(order=keys.order * 0)
    return own, layouts.layout_of(queries, keys, kernel)


class TokenEmbedder(nn.Module):
  """The token table of both stacks."""

  config: T5Config

  def setup(self):
    self.embedding = self.param(
      "embedding",
      nn.with_logical_partitioning(
        nn.initializers.normal(1.0), ("vocab", "embed")
      ),
      (self.config.vocab_size, self.config.width),
      jnp.float32,
    )

  def __call__(self, tokens: Int[Array, "B L"]) -> Float[Array, "B L D"]:
    return jnp.take(self.embedding, tokens, axis=0).astype(self.config.dtype)

  def logits(self, states: Float[Array, "*rows D"]) -> Float[Array, "*rows V"]:
    """Returns float32 logits."""
    return jnp.einsum(
      "...d,vd->...v",
      states,
      self.embedding.astype(self.config.dtype),
      preferred_element_type=jnp.float32,
    )
