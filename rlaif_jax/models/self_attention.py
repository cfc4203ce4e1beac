# SPDX-License-Identifier: Apache-2.0
"""The attention layer of decoders: projections, rotary embedding, cache."""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
from jaxtyping import Array, Float, Int

from rlaif_jax.models import architecture_options as options_lib
from rlaif_jax.models import attention
from rlaif_jax.models import cache as cache_lib
from rlaif_jax.models import layers
from rlaif_jax.models import layouts
from rlaif_jax.models import prefix_attention


class CacheSlice(NamedTuple):
  """The part of a cache that a layer reads and writes.

  Attributes:
    layer: keys and values of the rows' own columns.
    column: the next column to write.
    prefix: the prefix that all rows continue, if any.
  """

  layer: cache_lib.LayerCache
  column: Int[Array, ""]
  prefix: prefix_attention.Prefix | None = None

  @property
  def num_columns(self) -> int:
    """Number of columns of a row, the prefix included."""
    own = self.layer.keys.shape[2]
    return own + (self.prefix.layer.keys.shape[2] if self.prefix else 0)

  def put(
    self, array: Float[Array, "B K S C"], new: Float[Array, "B K L C"]
  ) -> Float[Array, "B K S C"]:
    """Returns `array` with `new` in the next columns."""
    new = new.astype(array.dtype)
    return jax.lax.dynamic_update_slice(array, new, (0, 0, self.column, 0))

  def write(
    self, key: Float[Array, "B K L C"], value: Float[Array, "B K L C"]
  ) -> cache_lib.LayerCache:
    """Returns the layer with keys and values of new columns."""
    return cache_lib.LayerCache(
      self.put(self.layer.keys, key), self.put(self.layer.values, value)
    )


class Attention(nn.Module):
  """Rotary grouped-query self-attention."""

  num_heads: int
  num_kv_heads: int
  head_dim: int
  rope_theta: float
  is_local: bool
  norm_epsilon: float
  options: options_lib.ArchitectureOptions
  dtype: layers.Dtype

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "B L D"],
    layout: layouts.Layout,
    cached: CacheSlice | None = None,
    columns: Int[Array, "B T"] | None = None,
  ) -> tuple[Float[Array, "B T D"], cache_lib.LayerCache]:
    """Attends from x.

    Args:
      x: states of all columns.
      layout: positions and mask of all L columns. Its keys are the columns of
        the cache, or those of x without one.
      cached: cache to write into and read from.
      columns: queries; all columns if None (T = L).

    Returns:
      Outputs of the queries, and the keys and values.
    """
    queries = x if columns is None else layouts.take_columns(x, columns)
    query = self._project(queries, self.num_heads, "heads", "query")
    key = self._project(x, self.num_kv_heads, "kv_heads", "key")
    value = self._project(x, self.num_kv_heads, "kv_heads", "value")
    if self.options.qk_norm:
      query = self._normed(query, "heads", "query_norm")
      key = self._normed(key, "kv_heads", "key_norm")
    out, layer = self._attend(query, key, value, layout, cached, columns)
    out = layers.Projection(
      (x.shape[-1],),
      ("heads", "head_dim", "embed"),
      num_inputs=2,
      dtype=self.dtype,
      name="out",
    )(out)
    return out, layer

  def _attend(self, query, key, value, layout, cached, columns):
    """Returns outputs [B, T, H, C], and the keys and values."""
    # A position is less than the number of columns.
    bound = key.shape[1] if cached is None else cached.num_columns
    angles = (self._frequencies(), bound)
    key = layers.rotary(key, layers.rotations(layout.positions, *angles))
    key, value = map(attention.heads_first, (key, value))
    if columns is not None:
      layout = layout.at(columns)
    query = layers.rotary(query, layers.rotations(layout.positions, *angles))
    scores = self._scores()
    if cached is None:
      out = attention.attend_rows(query, key, value, layout, **scores)
      return out, cache_lib.LayerCache(key, value)
    layer, prefix = cached.write(key, value), cached.prefix
    own = (layer.keys, layer.values, layout)
    if prefix is None:
      return attention.attend_chunked(query, *own, **scores), layer
    if columns is not None:
      prefix = prefix.at(columns)
    out = prefix_attention.attend_after(query, prefix, *own, **scores)
    return out, layer

  def _project(
    self, x: Float[Array, "B L D"], heads: int, axis: str, name: str
  ) -> Float[Array, "B L H C"]:
    return layers.Projection(
      (heads, self.head_dim),
      ("embed", axis, "head_dim"),
      use_bias=self.options.qkv_bias,
      dtype=self.dtype,
      name=name,
    )(x)

  def _normed(
    self, x: Float[Array, "B L H C"], axis: str, name: str
  ) -> Float[Array, "B L H C"]:
    """Returns queries or keys with a norm over each head, or over all."""
    together = self.options.qk_norm_of_all_heads
    norm = layers.RMSNorm(
      self.norm_epsilon,
      self.dtype,
      offset=self.options.norm_offset,
      axis=axis if together else "head_dim",
      name=name,
    )
    return norm(x.reshape(*x.shape[:2], -1) if together else x).reshape(x.shape)

  def _rope(self) -> tuple[float, options_lib.RopeScaling | None]:
    """Returns the rotary base and scaling of this layer."""
    if self.is_local and self.options.local_rope_theta:
      return self.options.local_rope_theta, None
    return self.rope_theta, self.options.rope_scaling

  def _scores(self) -> dict[str, float]:
    """Returns scale and cap of the scores."""
    _, scaling = self._rope()
    scale = self.options.query_scale
    if scaling is not None and scaling.attention_factor != 1.0:
      # YaRN multiplies the rotated queries and keys by it.
      scale = (scale or self.head_dim**-0.5) * scaling.attention_factor**2
    return {"scale": scale, "cap": self.options.attention_softcap}

  def _frequencies(self) -> Float[Array, " half"]:
    return options_lib.rope_frequencies(self.head_dim, *self._rope())
