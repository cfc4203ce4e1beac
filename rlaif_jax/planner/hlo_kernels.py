# SPDX-License-Identifier: Apache-2.0
"""FLOPs and traffic of attention kernels, whose inside HLO does not show.

A splash kernel computes blocks of scores [q, k] for every row and query head.
The forward pass has two products of scores and channels, dq three (it makes the
scores again) and dkv four. Forward and dq read a block of keys and values for
each block of scores, dkv one of queries and output gradients. How many scores
there are is in the name that `models.fused_attention` gives to the call.
"""

from __future__ import annotations

import re

from rlaif_jax.planner import hlo_text

_SPLASH = re.compile(
  r"splash_scores_(\d+)_block_(\d+).*splash_m[hq]a_(fwd|dq|dkv)"
)
_PRODUCTS = {"fwd": 2, "dq": 3, "dkv": 4}


def flops(
  computation: hlo_text.Computation, instruction: hlo_text.Instruction
) -> float:
  """Returns the FLOPs of an attention kernel; 0 for other instructions."""
  if (found := _splash(computation, instruction)) is None:
    return 0.0
  phase, scores, _, (query, _, _) = found
  return 2.0 * _PRODUCTS[phase] * scores * _heads(query) * query.dims[-1]


def repeated_bytes(
  computation: hlo_text.Computation, instruction: hlo_text.Instruction
) -> float:
  """Returns what an attention kernel reads, beyond each operand once."""
  if (found := _splash(computation, instruction)) is None:
    return 0.0
  phase, scores, block, (query, key, value) = found
  element = hlo_text.BYTES[query.dtype]
  # Two blocks of `block` columns for each block of scores.
  columns = 2.0 * scores / block * _heads(query)
  once = key.bytes + value.bytes if phase != "dkv" else 2 * query.bytes
  return max(0.0, columns * query.dims[-1] * element - once)


def _splash(computation, instruction):
  """Returns phase, scores, block and (query, key, value), or None."""
  if instruction.op != "custom-call":
    return None
  found = _SPLASH.search(instruction.attributes)
  if found is None:
    return None
  operands = (
    computation.instructions[name].results for name in instruction.operands
  )
  # Queries, keys and values follow the integers of the mask.
  arrays = [
    array
    for (array,) in operands
    if array.dtype in ("bf16", "f32") and len(array.dims) > 2
  ]
  return found[3], int(found[1]), int(found[2]), arrays[:3]


def _heads(query: hlo_text.Array) -> float:
  """Returns rows times query heads, of queries [..., L, C]."""
  return query.size / (query.dims[-1] * query.dims[-2])
