# SPDX-License-Identifier: Apache-2.0
"""Grouped-query attention, as functions of arrays.

`attend` is the plain form, of which all others are faster or smaller twins.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped

from rlaif_jax.models import architecture_options as options_lib
from rlaif_jax.models import fused_attention
from rlaif_jax.models import layouts
from rlaif_jax.models import relative_bias

# Finite in place of minus infinity: a query with no key then gives a uniform
# average instead of NaN. Such queries are padding and are not read.
MASKED = -1e30


def heads_first(x: Shaped[Array, "B L K C"]) -> Shaped[Array, "B K L C"]:
  """Swaps the axes of columns and heads."""
  return jnp.swapaxes(x, 1, 2)


def attend(
  query: Float[Array, "B L H C"],
  key: Float[Array, "B K S C"],
  value: Float[Array, "B K S C"],
  mask: Bool[Array, "B L S"],
  *,
  scale: float = 0.0,
  cap: float = 0.0,
  bias: Float[Array, "B H L S"] | None = None,
) -> Float[Array, "B L H C"]:
  """Softmax attention with H = G * K query heads; softmax in float32.

  Keys and values have their heads first, as in caches.

  Args:
    query: queries.
    key: keys; H is a multiple of K.
    value: values.
    mask: whether a query attends to a key.
    scale: factor of the scores; 0 is C ** -0.5.
    cap: scores become cap * tanh(scores / cap); 0 is off.
    bias: float32, added to the scores.
  """
  batch, length, heads, channels = query.shape
  kv_heads = key.shape[1]
  # The queries of all heads that share a key are rows of one product.
  joined = (batch, kv_heads, heads // kv_heads * length, channels)
  split = (batch, kv_heads, heads // kv_heads, length)
  query = heads_first(query).reshape(joined)
  scores = jnp.einsum(
    "bkqc,bksc->bkqs", query, key, preferred_element_type=jnp.float32
  ) * (scale or channels**-0.5)
  scores = options_lib.soft_cap(scores.reshape(*split, -1), cap)
  if bias is not None:
    scores = scores + bias.reshape(scores.shape)
  scores = jnp.where(mask[:, None, None], scores, MASKED)
  weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
  weights = weights.reshape(*joined[:3], -1)
  out = jnp.einsum("bkqs,bksc->bkqc", weights, value)
  return heads_first(out.reshape(batch, heads, length, channels))


def attend_chunked(
  query: Float[Array, "B L H C"],
  key: Float[Array, "B K S C"],
  value: Float[Array, "B K S C"],
  layout: layouts.Layout,
  *,
  scale: float = 0.0,
  cap: float = 0.0,
  biases: relative_bias.Biases | None = None,
) -> Float[Array, "B L H C"]:
  """`attend` whose memory is linear in the number of keys.

  Args:
    query: queries.
    key: keys.
    value: values.
    layout: of the queries and keys; its mask is made where it has none.
    scale: factor of the scores; 0 is C ** -0.5.
    cap: see `attend`.
    biases: added to the scores.
  """

  def block(tree, mask=None):
    query, queries = tree
    if mask is None:
      mask = queries.mask(layout.keys, layout.window)
    bias = None
    if biases is not None:
      bias = biases.at(queries.positions, layout.keys.positions)
    return attend(query, key, value, mask, scale=scale, cap=cap, bias=bias)

  if layout.mask is not None:
    return block((query, layout.queries), layout.mask)

  return layouts.in_blocks(block, (query, layout.queries), key.shape[2])


# Queries per part before the continuations. Smaller parts skip more of the
# masked half, larger ones make larger products. There are at most four parts.
CHUNK = 128


def attend_rows(
  query: Float[Array, "B T H C"],
  key: Float[Array, "B K L C"],
  value: Float[Array, "B K L C"],
  layout: layouts.Layout,
  *,
  scale: float = 0.0,
  cap: float = 0.0,
) -> Float[Array, "B T H C"]:
  """`attend` within rows; skips most of the scores that are always masked.

  Args:
    query: queries of all columns, or of those of `layout.at`.
    key: keys of all columns.
    value: values of all columns.
    layout: of the queries.
    scale: factor of the scores; 0 is C ** -0.5.
    cap: see `attend`.
  """
  number, length = layout.continuations
  if fused := _fused(query, layout, cap):
    return fused(query, key, value, layout, scale=scale)
  if not number and not layout.is_whole:
    return attend_chunked(query, key, value, layout, scale=scale, cap=cap)
  prompt = key.shape[2] - number * length
  queries = prompt if layout.is_whole else 0
  step = -(-queries // min(4, max(1, queries // CHUNK)))
  out = []
  for begin in range(0, queries, max(step, 1)):
    end = min(begin + step, queries)
    seen = layout.part(slice(begin, end), slice(end))
    keys, values = key[:, :, :end], value[:, :, :end]
    part = query[:, begin:end]
    out.append(attend_chunked(part, keys, values, seen, scale=scale, cap=cap))
  if number:
    rows = (key.shape[0] * number, -1)
    found = attend_chunked(
      query[:, queries:].reshape(*rows, *query.shape[2:]),
      _split_continuations(key, prompt, number),
      _split_continuations(value, prompt, number),
      _split_layout(layout, queries, prompt),
      scale=scale,
      cap=cap,
    )
    out.append(found.reshape(key.shape[0], -1, *query.shape[2:]))
  return jnp.concatenate(out, axis=1)


def _fused(query, layout, cap):
  """Returns the kernel's function, or None if it does not support the rows."""
  name, is_group = layout.kernel.name, layout.continuations != (0, 0)
  if not layout.is_whole or not (layout.is_text or is_group):
    return None
  if name == "splash":
    return functools.partial(fused_attention.splash, cap=cap)
  is_half = query.dtype == jnp.bfloat16
  if name == "cudnn" and layout.is_text and is_half and not cap:
    return fused_attention.cudnn
  return None


def _split_continuations(
  x: Float[Array, "B K L C"], prompt: int, number: int
) -> Float[Array, "rows K S C"]:
  """[B, K, P + N R, C] -> [B N, K, P + R, C]: the prompt and one's own."""
  rows, heads, _, channels = x.shape
  shape = (rows, number, heads, prompt, channels)
  first = jnp.broadcast_to(x[:, None, :, :prompt], shape)
  own = x[:, :, prompt:].reshape(rows, heads, number, -1, channels)
  both = jnp.concatenate([first, jnp.swapaxes(own, 1, 2)], axis=3)
  return both.reshape(rows * number, heads, -1, channels)


def _split_layout(
  layout: layouts.Layout, begin: int, prompt: int
) -> layouts.Layout:
  """Returns the layout of continuations: queries from `begin` on, rows B N.

  The keys are those of `_split_continuations`.
  """
  number, _ = layout.continuations

  def split_queries(x):
    return x[:, begin:].reshape(x.shape[0] * number, -1, *x.shape[2:])

  def split_keys(x):
    return _split_continuations(x[:, None, :, None], prompt, number)[:, 0, :, 0]

  mask = layout.mask
  return layout.replace(
    queries=jax.tree.map(split_queries, layout.queries),
    keys=jax.tree.map(split_keys, layout.keys),
    mask=None if mask is None else _split_mask(mask[:, begin:], prompt, number),
  )


def _split_mask(
  mask: Bool[Array, "B T L"], prompt: int, number: int
) -> Bool[Array, "rows Q S"]:
  """[B, N Q, P + N R] -> [B N, Q, P + R]: the prompt and one's own."""
  rows, columns = mask.shape[0], mask.shape[2]
  mask = mask.reshape(rows, number, -1, columns)
  own = mask[..., prompt:].reshape(*mask.shape[:3], number, -1)
  own = jnp.stack([own[:, i, :, i] for i in range(number)], axis=1)
  both = jnp.concatenate([mask[..., :prompt], own], axis=3)
  return both.reshape(rows * number, *both.shape[2:])
