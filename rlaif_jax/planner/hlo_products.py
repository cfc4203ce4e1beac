# SPDX-License-Identifier: Apache-2.0
"""FLOPs of HLO instructions.

Counts matrix products (two per multiplication), reductions and elementwise
arithmetic. Transcendental functions are not counted.
"""

from __future__ import annotations

import math
import re

from rlaif_jax.planner import hlo_text

# One operation per element of the result.
_ELEMENTWISE = {"add", "subtract", "multiply", "divide", "maximum", "minimum"}


def flops(
  computation: hlo_text.Computation, instruction: hlo_text.Instruction
) -> float:
  """Returns the FLOPs of one instruction, without those that it calls."""
  if instruction.op in _ELEMENTWISE:
    return instruction.results[0].size
  if instruction.op == "convolution":
    return _convolution(computation, instruction)
  if instruction.op == "reduce":
    source = computation.instructions[instruction.operands[0]].results[0]
    return source.size - instruction.results[0].size
  if instruction.op == "dot":
    contracted = instruction.numbers("lhs_contracting_dims")
  elif "dot_dimension_numbers" in instruction.attributes:  # A GPU library call.
    found = re.search(
      r'"lhs_contracting_dimensions":\[([^\]]*)\]', instruction.attributes
    )
    contracted = [int(n) for n in re.findall(r"\d+", found[1] if found else "")]
  else:
    return 0.0
  left = computation.instructions[instruction.operands[0]].results[0]
  summed = math.prod(left.dims[dim] for dim in contracted)
  return 2.0 * instruction.results[0].size * summed


def _convolution(computation, instruction) -> float:
  """FLOPs of a convolution, the form of a batched product on a TPU.

  Window positions outside the array are zeros and are not counted.
  """
  left, right = (
    computation.instructions[name].results[0]
    for name in instruction.operands[:2]
  )
  labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
  window = re.search(r"window=\{([^}]*)\}", instruction.attributes)
  settings = dict(re.findall(r"(\w+)=(\S+)", window[1] if window else ""))
  size = dict(zip(labels[3], instruction.results[0].dims, strict=True))
  kernel = dict(zip(labels[2], right.dims, strict=True))
  image = dict(zip(labels[1], left.dims, strict=True))
  products = 2.0 * size["b"] * size["f"] * kernel["i"]
  axes = sorted(axis for axis in labels[3] if axis.isdigit())

  def numbers(name, default):
    found = settings.get(name)
    return found.split("x") if found else [default] * len(axes)

  for axis, stride, padded, dilated, step in zip(
    axes,
    map(int, numbers("stride", "1")),
    numbers("pad", "0_0"),
    map(int, numbers("lhs_dilate", "1")),
    map(int, numbers("rhs_dilate", "1")),
    strict=True,
  ):
    low = int(padded.split("_")[0])
    reached = (
      position * stride - low + offset * step
      for position in range(size[axis])
      for offset in range(kernel[axis])
    )
    products *= sum(
      at % dilated == 0 and 0 <= at // dilated < image[axis] for at in reached
    )
  return products
