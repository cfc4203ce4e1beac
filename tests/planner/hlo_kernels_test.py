# SPDX-License-Identifier: Apache-2.0
"""FLOPs and traffic of attention kernels by hand, and of a TPU program."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from rlaif_jax.models import attention
from rlaif_jax.models import fused_attention
from rlaif_jax.models import layouts
from rlaif_jax.planner import chips
from rlaif_jax.planner import hlo_counts
from rlaif_jax.planner import program_costs
from tests import testing
from tests.planner import hlo_counts_test

ROWS, HEADS, KEY_HEADS, LENGTH, CHANNELS, BLOCK = 2, 8, 2, 1024, 128, 512
# Of four blocks the one above the diagonal is skipped.
SCORES = 3 * BLOCK**2
QUERY = ROWS * HEADS * LENGTH * CHANNELS * 2
KEY = QUERY * KEY_HEADS // HEADS


def tpu_program():
  """Forward and gradient of attention, for a v5e that need not exist."""
  device = chips.devices_of("v5e:2x2")[0]
  sharding = jax.sharding.SingleDeviceSharding(device)

  def total(query, key, value, valid):
    kernel = layouts.Kernel("splash")
    layout = layouts.causal_layout(valid, kernel)
    out = attention.attend_rows(query, key, value, layout)
    return jnp.sum(out.astype(jnp.float32) ** 2)

  def shape(*dims, dtype=jnp.bfloat16):
    return jax.ShapeDtypeStruct(dims, dtype, sharding=sharding)

  keys = shape(ROWS, KEY_HEADS, LENGTH, CHANNELS)
  lowered = jax.jit(jax.grad(total, argnums=(0, 1, 2))).lower(
    shape(ROWS, LENGTH, HEADS, CHANNELS),
    keys,
    keys,
    shape(ROWS, LENGTH, dtype=jnp.bool_),
  )
  return program_costs.compile_program(lowered, for_tpu=True)


def kernel(phase, scope=True):
  """A line of a kernel, after those of its operands."""
  name = fused_attention.SCOPE.format(scores=SCORES, block=BLOCK)
  name = f"jvp({name})/" if scope else ""
  keys = f"bf16[{ROWS},{KEY_HEADS},{LENGTH},{CHANNELS}]"
  queries = f"bf16[{ROWS},{HEADS},{LENGTH},{CHANNELS}]"
  return (
    "%m = s8[1,2,2] parameter(0)",
    f"%q = {queries} parameter(1)",
    f"%k = {keys} parameter(2)",
    f"%v = {keys} parameter(3)",
    f"%o = {queries} custom-call(%m, %q, %k, %v), "
    'custom_call_target="tpu_custom_call", metadata={op_name="'
    f'jit(f)/{name}splash_mha_{phase}_segmented/pallas_call"}}',
  )


@pytest.mark.parametrize(
  "phase, products, columns",
  # Blocks of keys and values once per head and block of scores, or of queries
  # and gradients; of these every operand was counted once.
  [("fwd", 2, 2 * KEY), ("dq", 3, 2 * KEY), ("dkv", 4, 2 * QUERY)],
)
def test_a_kernel_by_hand(phase, products, columns):
  with_name, without = (
    hlo_counts_test.count(*kernel(phase, scope)) for scope in (True, False)
  )
  scores = ROWS * HEADS * SCORES
  assert with_name.flops == 2 * products * scores * CHANNELS
  blocks = 2 * 3 * BLOCK * CHANNELS * 2 * ROWS * HEADS
  assert with_name.bytes - without.bytes == blocks - columns
  assert without.flops == 0
  assert without.bytes >= 2 * QUERY + 2 * KEY


def test_a_compiled_kernel_is_counted_by_formula():
  testing.need_tpu_compiler()
  assert fused_attention.block_of(LENGTH) == (BLOCK, LENGTH)
  program = tpu_program()
  assert program.text.count("tpu_custom_call") >= 3
  counts = hlo_counts.count(program.text)
  products = (2 + 3 + 4) * 2 * SCORES * CHANNELS * ROWS * HEADS
  assert counts.flops == pytest.approx(products, rel=0.03)
  # Scores in float32 would be written and read several times.
  scores = 4 * LENGTH**2 * ROWS * HEADS
  assert program.temporary < scores / 2
