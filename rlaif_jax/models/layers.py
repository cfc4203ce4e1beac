# SPDX-License-Identifier: Apache-2.0
"""Small layers with logical axis names: projections, norm, rotary, gated MLP.

Owns how a parameter is made and what its axes are called; knows nothing of
attention patterns or whole models.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

Dtype = jnp.dtype | str


# What the backward pass finds of a block instead of computing it again: all,
# its input alone, or the results of its matrix products with parameters.
REMAT = {
  "none": None,
  "full": jax.checkpoint_policies.nothing_saveable,
  "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Execution:
  """How a model is run; its results do not depend on it.

  Fields:
    remat: what the backward pass keeps of each layer, of REMAT.
    scan_layers: layers are one loop where no cache is made (losses, log-probs
      of given texts); parameters keep their names and shapes.
    split_by: how activations [rows, columns, ...] are split: a sharding with
      mesh axes for their rows and for their columns. None leaves it to the
      compiler, which on large meshes may split them by their channels, as the
      parameters are, and then has to gather them over and over.
  """

  remat: str = "none"
  scan_layers: bool = False
  split_by: jax.sharding.NamedSharding | None = None

  def __post_init__(self):
    if self.remat not in REMAT:
      raise ValueError(f"remat is {self.remat!r}; use one of {sorted(REMAT)}")

  def block(self, block: type[nn.Module]) -> type[nn.Module]:
    """The block's class, keeping for the backward pass what `remat` says."""
    if self.remat == "none":
      return block
    return nn.remat(block, policy=REMAT[self.remat])

  @property
  def row_devices(self) -> int:
    """The devices over which rows are split."""
    if self.split_by is None:
      return 1
    return self._parts(self.split_by.spec[0])

  def _parts(self, axes: Any) -> int:
    names = axes if isinstance(axes, tuple) else (axes,)
    return math.prod(self.split_by.mesh.shape[name] for name in names)

  def split(self, x: jax.Array) -> jax.Array:
    """x [B, L, D] over the devices, where their numbers divide B (and L)."""
    if self.split_by is None:
      return x
    mesh, spec = self.split_by.mesh, []
    for axes, size in zip(self.split_by.spec, x.shape, strict=False):
      spec.append(axes if size % self._parts(axes) == 0 else None)
    if spec[0] is None:
      return x
    return jax.lax.with_sharding_constraint(
      x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))
    )


PLAIN = Execution()


def scanned(
  apply: Callable[[Any, jax.Array], jax.Array],
  params: Sequence[Any],
  x: jax.Array,
  *,
  how: Execution,
  dtype: Dtype,
) -> jax.Array:
  """x after blocks that are alike, as one loop over their parameters.

  What is computed is what a loop in Python computes, but the program, and the
  time to compile it, do not grow with depth. The parameters are copied next to
  each other for it, kernels as `dtype`, which is what products read anyway.

  Args:
    apply: (a block's parameters, x) -> x.
    params: of each block.
    x: [...].
    how: remat, and how x is split.
    dtype: of products.
  """

  def stack(path, *leaves):
    if path[-1].key == "kernel":
      leaves = [leaf.astype(dtype) for leaf in leaves]
    return jnp.stack(leaves)

  def layer(x, own):
    return how.split(apply(own, x)), None

  if how.remat != "none":
    # In a loop nothing can be merged with the first computation anyway.
    policy = REMAT[how.remat]
    layer = jax.checkpoint(layer, policy=policy, prevent_cse=False)
  stacked = jax.tree_util.tree_map_with_path(stack, params[0], *params[1:])
  return jax.lax.scan(layer, how.split(x), stacked)[0]


def matmul(a: jax.Array, b: jax.Array, out_dtype: Dtype | None) -> jax.Array:
  """a [..., K] @ b [K, N], in `out_dtype` where one is given, else that of a.

  On CPUs the leading axes are one: XLA multiplies matrices there by a faster
  routine than arrays of more axes, of which its gradient for b sums over
  several. And bfloat16 products are made in float32, which is as fast as it
  gets on processors that know bfloat16, and rounded afterwards.
  """

  def flat(a, b):
    wanted = a.dtype if out_dtype is None else out_dtype
    into = jnp.float32 if a.dtype == jnp.bfloat16 else wanted
    rows = a.reshape(-1, a.shape[-1])
    out = jnp.matmul(rows, b, preferred_element_type=into).astype(wanted)
    return out.reshape(*a.shape[:-1], b.shape[-1])

  def plain(a, b):
    return jnp.matmul(a, b, preferred_element_type=out_dtype)

  return jax.lax.platform_dependent(a, b, cpu=flat, default=plain)


class Projection(nn.Module):
  """A linear map over the last `num_inputs` axes (einsum dense).

  The kernel has shape [*inputs, *features] and the given logical axis names;
  a bias, where asked for, has [*features]. Initialised with a truncated
  normal of deviation scale / sqrt(fan-in), and zeros. `out_dtype` keeps sums
  of `dtype` products as they were added up (logits).
  """

  features: tuple[int, ...]
  axes: tuple[str, ...]
  num_inputs: int = 1
  use_bias: bool = False
  dtype: Dtype = jnp.float32
  scale: float = 1.0
  out_dtype: Dtype | None = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    inputs = x.shape[-self.num_inputs :]
    fan_in, fan_out = math.prod(inputs), math.prod(self.features)
    init = nn.initializers.truncated_normal(self.scale / math.sqrt(fan_in))
    kernel = self.param(
      "kernel",
      nn.with_logical_partitioning(init, self.axes),
      (*inputs, *self.features),
      jnp.float32,
    )
    # One plain matmul over flattened axes: the form that every backend runs
    # best, whatever the number of heads.
    flat = x.reshape(*x.shape[: -self.num_inputs], fan_in).astype(self.dtype)
    matrix = kernel.astype(self.dtype).reshape(fan_in, fan_out)
    out = matmul(flat, matrix, self.out_dtype)
    if self.use_bias:
      bias = self.param(
        "bias",
        nn.with_logical_partitioning(
          nn.initializers.zeros, self.axes[self.num_inputs :]
        ),
        self.features,
        jnp.float32,
      ).astype(self.dtype)
      out += bias.reshape((1,) * (out.ndim - 1) + (fan_out,))
    return out.reshape(*out.shape[:-1], *self.features)


class RMSNorm(nn.Module):
  """x / rms(x) * scale over the last axis, in float32 (arXiv:1910.07467).

  With `offset` it multiplies by 1 + scale, and scale starts at 0 (Gemma).
  """

  epsilon: float = 1e-6
  dtype: Dtype = jnp.float32
  offset: bool = False
  axis: str = "embed"

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    init = nn.initializers.zeros if self.offset else nn.initializers.ones
    scale = self.param(
      "scale",
      nn.with_logical_partitioning(init, (self.axis,)),
      (x.shape[-1],),
      jnp.float32,
    ).astype(jnp.float32)
    scale = 1 + scale if self.offset else scale
    x = x.astype(jnp.float32)
    variance = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    normed = x * jax.lax.rsqrt(variance + self.epsilon)
    return (normed * scale.reshape((1,) * (x.ndim - 1) + (-1,))).astype(
      self.dtype
    )


class Embedding(nn.Module):
  """Token table [V, D]; also reads out logits when tied.

  From `head` [D, V] where the parameters have it; see `with_head`.
  """

  vocab_size: int
  width: int
  dtype: Dtype = jnp.float32

  def setup(self):
    self.table = self.param(
      "table",
      nn.with_logical_partitioning(
        nn.initializers.normal(1.0 / math.sqrt(self.width)), ("vocab", "embed")
      ),
      (self.vocab_size, self.width),
      jnp.float32,
    )

  def __call__(self, tokens: jax.Array) -> jax.Array:
    return jnp.take(self.table, tokens, axis=0).astype(self.dtype)

  def logits(self, hidden: jax.Array) -> jax.Array:
    """[..., D] -> [..., V], returned in float32."""
    if self.has_variable("params", "head"):
      head = self.get_variable("params", "head")
      return matmul(hidden, head, jnp.float32)
    return matmul(hidden, self.table.astype(self.dtype).T, jnp.float32)


def as_products_read(params: Any, dtype: Dtype) -> Any:
  """The parameters with kernels in `dtype`, which products turn them into."""

  def read(path, leaf):
    return leaf.astype(dtype) if path[-1].key == "kernel" else leaf

  return jax.tree_util.tree_map_with_path(read, params)


def with_head(params: Any, dtype: Dtype) -> Any:
  """An embedding's parameters and `head`, the table's transpose in `dtype`.

  For logits of few rows, many times: a product reads it in the order in which
  it lies in memory.
  """
  return {**params, "head": params["table"].T.astype(dtype)}


def turns(
  positions: jax.Array, frequency: jax.Array, bound: int
) -> tuple[jax.Array, jax.Array]:
  """Cosine and sine [B, L, C / 2] of the rotary angles, float32.

  XLA's CPU backend would compute them anew for each head of each layer, so
  there they are looked up in a table.

  Args:
    positions: [B, L] int32.
    frequency: [C / 2] radians a token; see `variant.rope_frequencies`.
    bound: above all positions, such as the number of columns.
  """

  def computed(positions):
    each = frequency.reshape((1,) * positions.ndim + (-1,))
    angle = positions[..., None].astype(jnp.float32) * each
    return jnp.cos(angle), jnp.sin(angle)

  def looked_up(positions):
    table = jnp.concatenate(computed(jnp.arange(bound)), axis=-1)
    found = jnp.take(table, positions, axis=0, mode="clip")
    return tuple(jnp.split(found, 2, axis=-1))

  return jax.lax.platform_dependent(positions, cpu=looked_up, default=computed)


def rotary(x: jax.Array, turn: tuple[jax.Array, jax.Array]) -> jax.Array:
  """Rotates channel pairs (i, i + C/2) of x [B, L, H, C], C even, by `turns`.

  arXiv:2104.09864.
  """
  half = x.shape[-1] // 2
  cos, sin = (part[:, :, None].astype(x.dtype) for part in turn)
  left, right = x[..., :half], x[..., half:]
  return jnp.concatenate(
    [left * cos - right * sin, right * cos + left * sin], axis=-1
  )


class GatedMLP(nn.Module):
  """down(activation(gate(x)) * up(x)) (arXiv:2002.05202)."""

  mlp_dim: int
  dtype: Dtype = jnp.float32
  activation: str = "silu"

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    def project(features: int, axes: Sequence[str], name: str) -> Projection:
      return Projection((features,), tuple(axes), dtype=self.dtype, name=name)

    gate = project(self.mlp_dim, ("embed", "mlp"), "gate")(x)
    up = project(self.mlp_dim, ("embed", "mlp"), "up")(x)
    gate = nn.silu(gate) if self.activation == "silu" else nn.gelu(gate)
    return project(x.shape[-1], ("mlp", "embed"), "down")(gate * up)


def scalar_head() -> nn.Dense:
  """[..., D] -> [..., 1] in float32, zero at first, with a bias."""
  return nn.Dense(
    1,
    dtype=jnp.float32,
    kernel_init=nn.with_logical_partitioning(
      nn.initializers.zeros, ("embed", "scalar")
    ),
    bias_init=nn.with_logical_partitioning(nn.initializers.zeros, ("scalar",)),
  )
