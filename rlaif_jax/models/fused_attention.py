# SPDX-License-Identifier: Apache-2.0
"""Attention by kernels that keep no scores: splash on TPUs, cudnn on GPUs.

`attention.attend_rows` is the plain form. A kernel skips the blocks of keys
that no query of a block attends to.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_kernel as splash_kernel,
)
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_mask as splash_mask,
)
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int
import numpy as np

from rlaif_jax.models import layouts

# Columns of a block. Registers have 128 lanes, and larger blocks than these
# do not fit the on-chip memory with heads of 256 channels.
BLOCKS = (512, 384, 256, 128)

# The implementation of `jax.nn.dot_product_attention`; tests use "xla".
CUDNN = "cudnn"

# Name of a kernel's outputs, for rematerialization.
KEPT = "attention"

# Scope of a kernel's name: scores of one head and row that a device computes,
# and columns of a block. The planner reads it.
SCOPE = "splash_scores_{scores}_block_{block}"


@dataclasses.dataclass(frozen=True)
class RowMask(splash_mask.Mask):
  """Which columns of a row attend to which, as the row's sizes tell.

  Rows are a prompt that ends at column `prompt`, and continuations of
  `continuation` tokens that begin there, all without gaps.

  Attributes:
    length: columns of queries and keys.
    prompt: columns of the prompt.
    continuation: columns of each continuation.
    window: tokens that a query attends to; 0: all before it.
  """

  length: int
  prompt: int
  continuation: int
  window: int

  @property
  def shape(self) -> tuple[int, int]:
    return self.length, self.length

  def __getitem__(self, index) -> Bool[np.ndarray, "q k"]:
    query, key = (np.arange(self.length)[part] for part in index)
    # Most blocks of long rows are all visible or all masked.
    if query[-1] < key[0] or (
      self.window
      and query[-1] < self.prompt
      and query[0] - key[-1] >= self.window
    ):
      return np.zeros((query.size, key.size), bool)
    if not self.window and key[-1] < min(self.prompt, query[0]):
      return np.ones((query.size, key.size), bool)
    query, key = query[:, None], key[None]
    own = np.maximum(query - self.prompt, 0) // self.continuation
    start = self.prompt + own * self.continuation
    mask = (key <= query) & ((key < self.prompt) | (key >= start))
    if self.window:
      # Columns between prompt and continuation do not count.
      position = np.where(
        query < self.prompt, query, query - start + self.prompt
      )
      key_position = np.where(key < self.prompt, key, key - start + self.prompt)
      mask &= position - key_position < self.window
    return mask


def splash(
  query: Float[Array, "B L H C"],
  key: Float[Array, "B K L C"],
  value: Float[Array, "B K L C"],
  layout: layouts.Layout,
  *,
  scale: float = 0.0,
  cap: float = 0.0,
) -> Float[Array, "B L H C"]:
  """`attention.attend_rows` of whole rows by the splash kernel of JAX.

  Rows are sharded as the activations are, heads over "model".

  Args:
    query: queries of all columns.
    key: keys of all columns.
    value: values of all columns.
    layout: rows of one text each, or of a prompt and its continuations.
    scale: factor of the scores; 0 is C ** -0.5.
    cap: scores become cap * tanh(scores / cap); 0 is off.
  """
  batch, length, heads, channels = query.shape
  number, own = layout.continuations
  order = None
  if layout.window:
    # The kernel's window counts columns, so padding moves to the row's ends.
    order = _without_gaps(layout.keys.segment_ids > 0, number, own)
    query = jnp.take_along_axis(query, order[:, :, None, None], axis=1)
    key, value = (
      jnp.take_along_axis(x, order[:, None, :, None], axis=2)
      for x in (key, value)
    )
  block, padded = block_of(length)
  mask = RowMask(padded, length - number * own, own or padded, layout.window)
  valid = (layout.keys.segment_ids > 0).astype(jnp.int32)
  if order is not None:
    valid = jnp.take_along_axis(valid, order, axis=1)
  pad = ((0, 0), (0, 0), (0, padded - length), (0, 0))
  scaled = (query * (scale or channels**-0.5)).astype(query.dtype)
  query, key, value = (
    jnp.pad(x, pad) for x in (scaled.swapaxes(1, 2), key, value)
  )
  valid = jnp.pad(valid, pad[1:3])
  out = _sharded(query, key, value, valid, (mask, block, cap), layout.kernel)
  out = out[:, :, :length].swapaxes(1, 2)
  if order is not None:
    back = jnp.argsort(order, axis=1)[:, :, None, None]
    out = jnp.take_along_axis(out, back, axis=1)
  return out


def block_of(length: int) -> tuple[int, int]:
  """Returns columns of a block, and of a row after padding to whole blocks.

  Of the blocks with little padding the largest, as each has a fixed cost of
  about 64 columns.
  """

  def padded(block):
    return -(-length // block) * block

  block = min(BLOCKS, key=lambda block: padded(block) * (1 + 64 / block))
  return block, padded(block)


def _without_gaps(
  valid: Bool[Array, "B L"], number: int, own: int
) -> Int[Array, "B L"]:
  """Returns the columns in an order that has no padding between tokens.

  Padding of the prompt is in front, that of each continuation behind.
  """
  rows, prompt = valid.shape[0], valid.shape[1] - number * own
  first = jnp.argsort(valid[:, :prompt], axis=1, stable=True)
  if not number:
    return first
  rest = ~valid[:, prompt:].reshape(rows, number, own)
  rest = jnp.argsort(rest, axis=2, stable=True)
  rest += prompt + own * jnp.arange(number)[None, :, None]
  return jnp.concatenate([first, rest.reshape(rows, -1)], axis=1)


def _sharded(query, key, value, valid, form, kernel):
  """Calls the kernel on each device's rows and heads: [B, H, L, C].

  The form is the mask, the columns of a block, and the cap of the scores.
  """
  _, block, _ = form
  rows, columns, model = _axes(kernel.sharding, query, key, block)
  shards = 1 if columns is None else kernel.sharding.mesh.shape[columns]
  program, scores = _program(*form, shards, kernel.interpret)

  def call(program, query, key, value, query_ids, key_ids):
    ids = splash_kernel.SegmentIds(q=query_ids, kv=key_ids)
    with jax.named_scope(SCOPE.format(scores=scores, block=block)):
      return jax.vmap(program)(query, key, value, ids)

  # Queries of padding read something, so that no softmax is empty.
  arguments = (query, key, value, jnp.ones_like(valid), valid)
  if kernel.sharding is None:
    return call(program, *arguments)
  spec, mesh = jax.sharding.PartitionSpec, kernel.sharding.mesh
  placed = jax.sharding.NamedSharding(mesh, spec(None, columns))
  whole = spec(rows, model)
  return jax.shard_map(
    call,
    mesh=mesh,
    in_specs=(
      program.manual_sharding_spec(placed),
      spec(rows, model, columns),
      whole,
      whole,
      spec(rows, columns),
      spec(rows),
    ),
    out_specs=spec(rows, model, columns),
    check_vma=False,
  )(program, *arguments)


def _axes(sharding, query, key, block):
  """Returns the mesh axes of rows, columns and heads that divide the arrays."""
  if sharding is None:
    return None, None, None
  shape, (rows, columns) = sharding.mesh.shape, sharding.spec
  count = int(np.prod([shape[axis] for axis in rows]))
  blocks = query.shape[2] // block
  return (
    rows if query.shape[0] % count == 0 else None,
    columns if blocks % shape[columns] == 0 else None,
    "model" if key.shape[1] % shape["model"] == 0 else None,
  )


@functools.lru_cache(maxsize=64)
def _program(
  mask: RowMask, block: int, cap: float, shards: int, interpret: bool
) -> tuple[splash_kernel.SplashAttentionKernel, int]:
  """Returns the kernel of a mask, and the scores that a device computes."""
  sizes = splash_kernel.BlockSizes(
    block_q=block,
    block_kv=block,
    block_q_dkv=block,
    block_kv_dkv=block,
    block_q_dq=block,
    block_kv_dq=block,
  )
  # Concrete arrays, so that programs which are traced later can use them.
  with jax.ensure_compile_time_eval():
    program = splash_kernel.make_splash_mha(
      splash_mask.MultiHeadMask([mask]),
      block_sizes=sizes,
      attn_logits_soft_cap=cap or None,
      head_shards=1,
      q_seq_shards=shards,
      residual_checkpoint_name=KEPT,
      interpret=interpret,
    )
    visited = np.asarray(program.fwd_mask_info.block_mask) > 0
  # The device with the most blocks makes the others wait.
  most = visited.reshape(shards, -1).sum(axis=1).max()
  return program, int(most) * block * block


def cudnn(
  query: Float[Array, "B L H C"],
  key: Float[Array, "B K L C"],
  value: Float[Array, "B K L C"],
  layout: layouts.Layout,
  *,
  scale: float = 0.0,
) -> Float[Array, "B L H C"]:
  """`attention.attend_rows` of whole rows of one text each, by cuDNN.

  Args:
    query: queries of all columns, bfloat16.
    key: keys of all columns.
    value: values of all columns.
    layout: rows of one text each.
    scale: factor of the scores; 0 is C ** -0.5.
  """
  # The kernel takes texts that begin at column 0, and their lengths.
  valid = layout.keys.segment_ids > 0
  order = jnp.argsort(~valid, axis=1, stable=True)
  lengths = jnp.sum(valid, axis=1, dtype=jnp.int32)

  def take(x, columns):
    return jnp.take_along_axis(x, columns[:, :, None, None], axis=1)

  out = jax.nn.dot_product_attention(
    take(query, order),
    take(key.swapaxes(1, 2), order),
    take(value.swapaxes(1, 2), order),
    scale=scale or None,
    is_causal=True,
    query_seq_lengths=lengths,
    key_value_seq_lengths=lengths,
    local_window_size=(layout.window - 1, 0) if layout.window else None,
    implementation=CUDNN,
  )
  return take(out, jnp.argsort(order, axis=1))
