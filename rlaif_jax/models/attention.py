# SPDX-License-Identifier: Apache-2.0
"""Grouped-query attention, positions and masks, as functions of arrays.

Positions and masks come from `valid`, not from a pad id, so padding may be
anywhere in a row and does not change the result.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from rlaif_jax.models import architecture_options as options_lib

# Finite in place of minus infinity: a query with no key then gives a uniform
# average instead of NaN. Such queries are padding and are not read.
MASKED = -1e30


def positions_from_valid(
  valid: Bool[Array, "B L"], start: Int[Array, "B 1"] | int = 0
) -> Int[Array, "B L"]:
  """Returns positions that count the valid tokens of each row from `start`."""
  return jnp.maximum(start + jnp.cumsum(valid, axis=1) - 1, 0)


def last_real(
  values: Shaped[Array, "B L *rest"], valid: Bool[Array, "B L"]
) -> Shaped[Array, " B *rest"]:
  """Returns the values at the last valid column of each row.

  The column comes from `valid`, so a token id that is both pad and end token is
  read correctly. Rows without a valid token read column 0.
  """
  columns = jnp.where(valid, jnp.arange(valid.shape[1])[None], 0)
  last = jnp.max(columns, axis=1)
  last = last.reshape(last.shape + (1,) * (values.ndim - 1))
  return jnp.take_along_axis(values, last, axis=1)[:, 0]


def causal_mask(valid: Bool[Array, "B L"]) -> Bool[Array, "B L L"]:
  """Returns a mask: query i attends to valid key j if j <= i."""
  length = valid.shape[1]
  causal = jnp.tril(jnp.ones((length, length), bool))
  return causal[None] & valid[:, None, :]


def packed_mask(
  segment_ids: Int[Array, "B L"], continuation_ids: Int[Array, "B L"]
) -> Bool[Array, "B L L"]:
  """Returns the attention mask of packed rows; see `batches.PackedBatch`.

  Query i attends to valid key j if j <= i, both have the same segment, and j is
  in its prompt or in the same continuation.

  Args:
    segment_ids: 0 for padding.
    continuation_ids: 0 for the prompt of a segment.
  """
  length = segment_ids.shape[1]
  valid = segment_ids > 0
  same = segment_ids[:, :, None] == segment_ids[:, None, :]
  keys = continuation_ids[:, None, :]
  visible = (keys == 0) | (continuation_ids[:, :, None] == keys)
  causal = jnp.tril(jnp.ones((length, length), bool))
  return causal[None] & same & visible & valid[:, None, :]


def take_columns(
  x: Shaped[Array, "B L *rest"], columns: Int[Array, "B T"]
) -> Shaped[Array, "B T *rest"]:
  """Returns columns of each row."""
  columns = columns.reshape(columns.shape + (1,) * (x.ndim - 2))
  return jnp.take_along_axis(x, columns, axis=1)


def within_window(
  positions: Int[Array, "B L"], key_positions: Int[Array, "#B S"], window: int
) -> Bool[Array, "B L S"]:
  """Returns a mask: the key is at most window - 1 tokens back.

  Positions count tokens, so that padding inside a row does not use up the
  window.
  """
  return positions[:, :, None] - key_positions[:, None, :] < window


@flax.struct.dataclass
class Layout:
  """Positions of queries and keys, and which keys each query attends to.

  Attributes:
    positions: positions of the queries' tokens.
    key_positions: positions of the keys' tokens.
    mask: whether a query attends to a key.
    continuations: (number, length) of the continuations at the end of each
      row, none of which attends to another; the columns before them attend
      backwards only.
    is_whole: whether the queries are all columns of the rows. Otherwise they
      are equally many of each continuation, if there are any.
  """

  positions: Int[Array, "B L"]
  key_positions: Int[Array, "#B S"]
  mask: Bool[Array, "#B #L S"]
  continuations: tuple[int, int] = flax.struct.field(
    pytree_node=False, default=(0, 0)
  )
  is_whole: bool = flax.struct.field(pytree_node=False, default=True)

  def within(self, window: int) -> Layout:
    """Returns the layout of a layer that attends to `window` tokens."""
    near = within_window(self.positions, self.key_positions, window)
    return self.replace(mask=self.mask & near)

  def at(self, columns: Int[Array, "B T"]) -> Layout:
    """Returns the layout of queries at these columns only."""
    return self.replace(
      positions=take_columns(self.positions, columns),
      mask=take_columns(self.mask, columns),
      is_whole=False,
    )


def causal_layout(valid: Bool[Array, "B L"]) -> Layout:
  """Returns the layout of rows of one text each."""
  positions = positions_from_valid(valid)
  return Layout(positions, positions, causal_mask(valid))


def packed_layout(
  segment_ids: Int[Array, "B L"], continuation_ids: Int[Array, "B L"]
) -> Layout:
  """Returns the layout of packed rows; see `packed_mask`."""
  mask = packed_mask(segment_ids, continuation_ids)
  positions = jnp.maximum(jnp.sum(mask, axis=2) - 1, 0)
  return Layout(positions, positions, mask)


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


# Queries per part before the continuations. Smaller parts skip more of the
# masked half, larger ones make larger products. There are at most four parts.
CHUNK = 128


def attend_rows(
  query: Float[Array, "B T H C"],
  key: Float[Array, "B K L C"],
  value: Float[Array, "B K L C"],
  layout: Layout,
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
  mask, (number, length) = layout.mask, layout.continuations
  if not number and not layout.is_whole:
    return attend(query, key, value, mask, scale=scale, cap=cap)
  prompt = key.shape[2] - number * length
  queries = prompt if layout.is_whole else 0
  step = -(-queries // min(4, max(1, queries // CHUNK)))
  out = []
  for begin in range(0, queries, max(step, 1)):
    end = min(begin + step, queries)
    seen = (key[:, :, :end], value[:, :, :end], mask[:, begin:end, :end])
    out.append(attend(query[:, begin:end], *seen, scale=scale, cap=cap))
  if number:
    rows = (key.shape[0] * number, -1)
    found = attend(
      query[:, queries:].reshape(*rows, *query.shape[2:]),
      _split_continuations(key, prompt, number),
      _split_continuations(value, prompt, number),
      _split_mask(mask[:, queries:], prompt, number),
      scale=scale,
      cap=cap,
    )
    out.append(found.reshape(key.shape[0], -1, *query.shape[2:]))
  return jnp.concatenate(out, axis=1)


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
