# SPDX-License-Identifier: Apache-2.0
"""FLOPs of the instructions of a compiled program.

Those of products of matrices (two for each multiplication), sums, and
additions, multiplications and the like; no others (no exponentials).
"""

from __future__ import annotations

import math
import re

from rlaif_jax.planner import hlo_text

# One operation for each element of what comes out.
_ELEMENTWISE = {"add", "subtract", "multiply", "divide", "maximum", "minimum"}


def flops(
  computation: hlo_text.Computation, instruction: hlo_text.Instruction
) -> float:
  """Of one instruction alone, in the computation in which it stands."""
  if instruction.op in _ELEMENTWISE:
    return instruction.results[0].size
  if instruction.op == "convolution":
    return _convolution(computation, instruction)
  if instruction.op == "reduce":
    source = computation.instructions[instruction.operands[0]].results[0]
    return source.size - instruction.results[0].size
  if instruction.op == "dot":
    contracted = instruction.numbers("lhs_contracting_dims")
  elif "dot_dimension_numbers" in instruction.attributes:  # A GPU's library.
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
  """As which a TPU's compiler writes products; its batches are places.

  Of the window, only places that lie within the array count (the others are
  zeros that nothing multiplies).
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
  places = sorted(axis for axis in labels[3] if axis.isdigit())

  def numbers(name, default):
    found = settings.get(name)
    return found.split("x") if found else [default] * len(places)

  for axis, stride, padded, dilated, step in zip(
    places,
    map(int, numbers("stride", "1")),
    numbers("pad", "0_0"),
    map(int, numbers("lhs_dilate", "1")),
    map(int, numbers("rhs_dilate", "1")),
    strict=True,
  ):
    low = int(padded.split("_")[0])
    reached = (
      turn * stride - low + offset * step
      for turn in range(size[axis])
      for offset in range(kernel[axis])
    )
    products *= sum(
      at % dilated == 0 and 0 <= at // dilated < image[axis] for at in reached
    )
  return products
