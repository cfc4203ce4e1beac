# SPDX-License-Identifier: Apache-2.0
"""Layers with logical axis names: projections, norm, rotary, gated MLP."""

from __future__ import annotations

import dataclasses
import math
from typing import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rlaif_jax.core import compute as compute_lib
from rlaif_jax.core import protocols
from rlaif_jax.models import fused_attention
from rlaif_jax.models import layouts
from rlaif_jax.ops import quantization

Dtype = jax.typing.DTypeLike

# Parameters of a `Projection` with an adapter (`models.lora.attach`).
LORA_A, LORA_B = "lora_a", "lora_b"

# What the backward pass keeps of a block; see `compute.ComputeConfig.remat`.
_POLICIES = {
  "full": jax.checkpoint_policies.nothing_saveable,
  "attention": jax.checkpoint_policies.save_only_these_names(
    fused_attention.KEPT
  ),
  "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForwardOptions:
  """How a model's functions run. The results do not depend on it.

  Attributes:
    compute: `remat`, `attention`, and `scan_layers` for passes that make no
      cache. The parameters' names and shapes stay the same.
    activation_sharding: sharding of activations [rows, columns, ...], with
      mesh axes for rows and for columns. None leaves it to the compiler, which
      on large meshes may shard the channels as the parameters are, and then
      gathers them in every layer.
  """

  compute: compute_lib.ComputeConfig = compute_lib.ComputeConfig()
  activation_sharding: jax.sharding.NamedSharding | None = None

  def remat(self, block: type[nn.Module]) -> type[nn.Module]:
    """Returns the block's class with rematerialization."""
    if self.compute.remat == "none":
      return block
    return nn.remat(block, policy=_POLICIES[self.compute.remat])

  def kernel(self, queries: int, keys: int) -> layouts.Kernel:
    """Returns how rows of these lengths attend."""
    return layouts.choose(
      self.compute.attention, self.activation_sharding, queries, keys
    )

  @property
  def row_devices(self) -> int:
    """Number of devices over which rows are sharded."""
    if self.activation_sharding is None:
      return 1
    return self._size(self.activation_sharding.spec[0])

  def _size(self, axes: str | tuple[str, ...]) -> int:
    names = axes if isinstance(axes, tuple) else (axes,)
    shape = self.activation_sharding.mesh.shape
    return math.prod(shape[name] for name in names)

  def shard(self, x: Float[Array, "B L *rest"]) -> Float[Array, "B L *rest"]:
    """Returns x with the sharding's axes that divide B (and L)."""
    if self.activation_sharding is None:
      return x
    mesh, spec = self.activation_sharding.mesh, []
    for axes, size in zip(self.activation_sharding.spec, x.shape, strict=False):
      spec.append(axes if size % self._size(axes) == 0 else None)
    if spec[0] is None:
      return x
    return jax.lax.with_sharding_constraint(
      x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))
    )


DEFAULT_OPTIONS = ForwardOptions()


def scanned(
  apply: Callable[[protocols.Params, Array], Array],
  params: Sequence[protocols.Params],
  x: Float[Array, "B L D"],
  *,
  options: ForwardOptions,
  dtype: Dtype,
) -> Float[Array, "B L D"]:
  """Applies blocks with parameters of the same structure in one loop.

  The result is that of a Python loop, but the size of the program, and the
  time to compile it, do not grow with depth. The parameters are stacked for
  it; kernels are cast to `dtype`, which their products cast them to anyway.

  Args:
    apply: (parameters of a block, x) -> x.
    params: parameters of each block.
    x: input of the first block.
    options: remat, and sharding of x.
    dtype: of products.
  """

  def stack(path, *leaves):
    if _is_cast(path, leaves[0]):
      leaves = [leaf.astype(dtype) for leaf in leaves]
    return jnp.stack(leaves)

  def layer(x, own):
    return options.shard(apply(own, x)), None

  if options.compute.remat != "none":
    # In a loop, XLA cannot merge the recomputation with the first one anyway.
    policy = _POLICIES[options.compute.remat]
    layer = jax.checkpoint(layer, policy=policy, prevent_cse=False)
  stacked = jax.tree_util.tree_map_with_path(stack, params[0], *params[1:])
  return jax.lax.scan(layer, options.shard(x), stacked)[0]


def matmul(
  a: Float[Array, "*rows K"], b: Float[Array, "K N"], out_dtype: Dtype | None
) -> Float[Array, "*rows N"]:
  """Returns a @ b in `out_dtype`, by default a's dtype.

  On CPUs the leading axes are flattened, since XLA has a faster routine for
  matrices than for arrays of more axes. bfloat16 products are computed in
  float32 there and rounded afterwards, which is as fast on processors that
  support bfloat16.
  """

  def flat(a, b):
    result = a.dtype if out_dtype is None else out_dtype
    into = jnp.float32 if a.dtype == jnp.bfloat16 else result
    rows = a.reshape(-1, a.shape[-1])
    out = jnp.matmul(rows, b, preferred_element_type=into).astype(result)
    return out.reshape(*a.shape[:-1], b.shape[-1])

  def plain(a, b):
    return jnp.matmul(a, b, preferred_element_type=out_dtype)

  return jax.lax.platform_dependent(a, b, cpu=flat, default=plain)


class Projection(nn.Module):
  """A linear map over the last `num_inputs` axes (einsum dense).

  The kernel has shape [*inputs, *features] and the given logical axis names;
  the optional bias has shape [*features]. The kernel is initialized with a
  truncated normal of standard deviation scale / sqrt(fan-in), the bias with
  zeros. With `out_dtype`, the result is not rounded to `dtype` (logits). An
  attached adapter, `lora_a` [fan-in, rank] and `lora_b` [rank, fan-out], adds
  x lora_a lora_b. The kernel may be quantized (`ops.quantization`).
  """

  features: tuple[int, ...]
  axes: tuple[str, ...]
  num_inputs: int = 1
  use_bias: bool = False
  dtype: Dtype = jnp.float32
  scale: float = 1.0
  out_dtype: Dtype | None = None

  @nn.compact
  def __call__(
    self, x: Float[Array, "*rows_inputs"]
  ) -> Float[Array, "*rows_features"]:
    inputs = x.shape[-self.num_inputs :]
    fan_in, fan_out = math.prod(inputs), math.prod(self.features)
    init = nn.initializers.truncated_normal(self.scale / math.sqrt(fan_in))
    kernel = self.param(
      "kernel",
      nn.with_logical_partitioning(init, self.axes),
      (*inputs, *self.features),
      jnp.float32,
    )
    # One matmul over flattened axes is the fastest form on every backend.
    flat = x.reshape(*x.shape[: -self.num_inputs], fan_in).astype(self.dtype)
    if self.has_variable("params", quantization.KERNEL_SCALE):
      scale = self.get_variable("params", quantization.KERNEL_SCALE)
      kernel = quantization.dequantize(kernel, scale)
    matrix = kernel.astype(self.dtype).reshape(fan_in, fan_out)
    out = matmul(flat, matrix, self.out_dtype)
    if self.has_variable("params", LORA_A):
      a, b = (
        self.get_variable("params", name).astype(self.dtype)
        for name in (LORA_A, LORA_B)
      )
      out += matmul(matmul(flat, a, None), b, self.out_dtype)
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

  With `offset`, the factor is 1 + scale and scale is initialized to 0 (Gemma).
  """

  epsilon: float = 1e-6
  dtype: Dtype = jnp.float32
  offset: bool = False
  axis: str = "embed"

  @nn.compact
  def __call__(self, x: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
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
  """Token table [V, D]; also gives logits if embeddings are tied.

  Logits use the parameter `head` [D, V] if there is one; see `with_head`.
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

  def __call__(self, tokens: Int[Array, "B L"]) -> Float[Array, "B L D"]:
    return jnp.take(self.table, tokens, axis=0).astype(self.dtype)

  def logits(self, states: Float[Array, "*rows D"]) -> Float[Array, "*rows V"]:
    """Returns float32 logits."""
    if self.has_variable("params", "head"):
      head = self.get_variable("params", "head")
      return matmul(states, head, jnp.float32)
    return matmul(states, self.table.astype(self.dtype).T, jnp.float32)


def _is_cast(path, leaf) -> bool:
  """Whether products cast a parameter; they do not cast codes."""
  is_float = jnp.issubdtype(leaf.dtype, jnp.floating)
  return path[-1].key == "kernel" and is_float


def cast_kernels(params: protocols.Params, dtype: Dtype) -> protocols.Params:
  """Returns the parameters with kernels in `dtype`, as their products cast."""

  def cast(path, leaf):
    return leaf.astype(dtype) if _is_cast(path, leaf) else leaf

  return jax.tree_util.tree_map_with_path(cast, params)


def with_head(params: protocols.Params, dtype: Dtype) -> protocols.Params:
  """Returns an embedding's parameters with `head`, its table's transpose.

  For repeated logits of few rows: a product then reads memory in order.
  """
  return {**params, "head": params["table"].T.astype(dtype)}


def rotations(
  positions: Int[Array, "B L"], frequency: Float[Array, " half"], bound: int
) -> tuple[Float[Array, "B L half"], Float[Array, "B L half"]]:
  """Returns cosine and sine of the rotary angles, float32.

  On CPUs they are looked up in a table, since XLA would recompute them for
  each head of each layer there.

  Args:
    positions: positions of tokens.
    frequency: radians per token, from `architecture_options.rope_frequencies`.
    bound: number larger than all positions, such as the number of columns.
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


def rotary(
  x: Float[Array, "B L H C"],
  angles: tuple[Float[Array, "B L half"], Float[Array, "B L half"]],
) -> Float[Array, "B L H C"]:
  """Rotates the channel pairs (i, i + C / 2) by `rotations`.

  arXiv:2104.09864.
  """
  half = x.shape[-1] // 2
  cos, sin = (part[:, :, None].astype(x.dtype) for part in angles)
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
  def __call__(self, x: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
    def project(features: int, axes: Sequence[str], name: str) -> Projection:
      return Projection((features,), tuple(axes), dtype=self.dtype, name=name)

    gate = project(self.mlp_dim, ("embed", "mlp"), "gate")(x)
    up = project(self.mlp_dim, ("embed", "mlp"), "up")(x)
    gate = nn.silu(gate) if self.activation == "silu" else nn.gelu(gate)
    return project(x.shape[-1], ("mlp", "embed"), "down")(gate * up)


def scalar_head() -> nn.Dense:
  """Returns a float32 layer [..., D] -> [..., 1], initialized to zero."""
  return nn.Dense(
    1,
    dtype=jnp.float32,
    kernel_init=nn.with_logical_partitioning(
      nn.initializers.zeros, ("embed", "scalar")
    ),
    bias_init=nn.with_logical_partitioning(nn.initializers.zeros, ("scalar",)),
  )
