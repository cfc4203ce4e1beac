# SPDX-License-Identifier: Apache-2.0
"""Kernels of 8 or 4 bits, for models that are not trained.

int8 has one scale for each output channel. nf4 has the 16 values of QLoRA
(arXiv:2305.14314, Appendix E) and one scale for each 64 inputs of a channel.
The scales stay float32 (QLoRA quantizes them too). The codes replace the kernel
in the parameters, with its shape, and the scales are `kernel_scale` beside it,
which `layers.Projection` reads. The quantizer is qwix.
"""

from __future__ import annotations

import functools
import math
from typing import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

# Name of the scales beside a "kernel".
KERNEL_SCALE = "kernel_scale"
# Dtype of a placement -> dtype of its codes.
CODES = {"int8": jnp.int8, "nf4": jnp.uint4}
_NF4_TILE = 64


def kernel_inputs(path: str, shape: tuple[int, ...]) -> int:
  """Returns the number of leading axes of a kernel that are inputs.

  It is 2 for .../out/kernel with three axes, the attention's output projection
  [heads, head_dim, width], and 1 for all others.
  """
  return (
    2 if path.split("/")[-2:] == ["out", "kernel"] and len(shape) == 3 else 1
  )


def scale_path(path: str) -> str:
  """Returns the path of a kernel's scales: .../kernel_scale."""
  return f"{path}_scale"


@functools.cache
def _qwix():
  """Imports qwix.

  Raises:
    ValueError: it is not installed.
  """
  try:
    import qwix
  except ImportError as error:
    raise ValueError(
      "Placement.dtype is int8 or nf4, which need qwix; type pip install "
      "'rlaif_jax[quantization]'"
    ) from error
  return qwix


def quantize(
  kernel: Float[Array, "*inputs_features"], num_inputs: int, dtype: str
) -> tuple[Shaped[Array, "*inputs_features"], Float[Array, "*scales"]]:
  """Returns codes and float32 scales of a kernel.

  Args:
    kernel: [*inputs, *features].
    num_inputs: number of leading axes that are inputs.
    dtype: "int8" or "nf4".

  Returns:
    Codes of the kernel's shape, and scales that divide it: [1, ..., *features]
    for int8; for nf4 the last input axis has one scale for each 64 (or the
    largest divisor of 64 that fits), the others have one for each index.

  Raises:
    ValueError: qwix is not installed.
  """
  features = range(num_inputs, kernel.ndim)
  axes, tiles = tuple(features), {}
  if dtype == "nf4":
    axes = (*range(num_inputs - 1), *features)
    last = num_inputs - 1
    tiles = {last: math.gcd(kernel.shape[last], _NF4_TILE)}
  array = _qwix().quantize(
    kernel.astype(jnp.float32),
    dtype,
    channelwise_axes=axes,
    tiled_axes=tiles,
  )
  return array.qvalue, array.scale


def dequantize(
  codes: Shaped[Array, "*inputs_features"], scale: Float[Array, "*scales"]
) -> Float[Array, "*inputs_features"]:
  """Returns the float32 kernel of codes and scales (`quantize`)."""
  if codes.dtype == CODES["nf4"]:
    values = functools.reduce(
      lambda found, code: jnp.where(codes == code, _nf4_values()[code], found),
      range(16),
      jnp.zeros(codes.shape, jnp.float32),
    )
  else:
    values = codes.astype(jnp.float32)
  repeats = (size // part for size, part in zip(codes.shape, scale.shape))
  for axis, count in enumerate(repeats):
    if scale.shape[axis] != 1:
      scale = jnp.repeat(scale, count, axis)
  return values * scale


@functools.cache
def _nf4_values() -> tuple[float, ...]:
  """Returns the values of the codes 0 to 15.

  qwix looks them up with a gather, which the TPU compiler does not fuse: a
  kernel [4096, 14336] took 1.1 GB of temporaries, and with selects none.
  """
  with jax.ensure_compile_time_eval():
    codes = _qwix().QArray(
      jnp.arange(16, dtype=jnp.uint4), jnp.ones(1), qtype="nf4"
    )
    return tuple(_qwix().dequantize(codes).tolist())


def dequantize_all(flat: Mapping[str, Array]) -> dict[str, Array]:
  """Returns parameters by path with float32 kernels in place of codes."""
  scales = {
    path.removesuffix(KERNEL_SCALE) + "kernel": leaf
    for path, leaf in flat.items()
    if path.endswith(KERNEL_SCALE)
  }
  return {
    path: dequantize(leaf, scales[path]) if path in scales else leaf
    for path, leaf in flat.items()
    if not path.endswith(KERNEL_SCALE)
  }


def convert(
  kernel: Shaped[Array, "*inputs_features"],
  scale: Float[Array, "*scales"] | None,
  *,
  num_inputs: int,
  dtype: str,
) -> tuple[Array, Array | None]:
  """Returns a kernel, and its scales if it has any, in another dtype.

  Args:
    kernel: values or codes.
    scale: scales of codes; None for values.
    num_inputs: number of leading axes that are inputs.
    dtype: "float32", "bfloat16", "int8" or "nf4".
  """
  if scale is not None:
    if kernel.dtype == CODES.get(dtype):
      return kernel, scale
    kernel = dequantize(kernel, scale)
  if dtype in CODES:
    return quantize(kernel, num_inputs, dtype)
  return kernel.astype(dtype), None
