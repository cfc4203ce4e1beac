# SPDX-License-Identifier: Apache-2.0
"""FLOPs of instructions by hand, and of a program by the compiler."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from rlaif_jax.planner import hlo_counts
from tests.planner import hlo_counts_test as counts


@pytest.mark.parametrize(
  "left, right, result, window, labels, products",
  [
    # A product; a batch of four; a sum over four heads of what each has; the
    # heads apart again; and a kernel of three that slides over five.
    ("8,32", "32,16", "8,16", "", "bf_io->bf", 8 * 32 * 16),
    (
      "4,8,32",
      "4,32,16",
      "4,8,16",
      "size=4 stride=3 lhs_dilate=4",
      "0bf_0io->0bf",
      4 * 8 * 32 * 16,
    ),
    ("4,8,32", "4,32,16", "1,8,16", "size=4", "0bf_0io->0bf", 4 * 8 * 32 * 16),
    (
      "8,32,1",
      "4,16,32",
      "8,4,16",
      "size=4 pad=3_3 rhs_reversal=1",
      "bf0_0oi->b0f",
      4 * 8 * 32 * 16,
    ),
    ("2,5,7", "3,7,6", "2,5,6", "size=3 pad=1_1", "b0f_0io->b0f", 13 * 84),
    (
      "2,5,7",
      "3,7,6",
      "2,3,6",
      "size=3 stride=2 pad=1_1",
      "b0f_0io->b0f",
      7 * 84,
    ),
    (
      "2,4,7",
      "3,7,6",
      "2,1,6",
      "size=3 pad=0_1 rhs_dilate=2",
      "b0f_0io->b0f",
      2 * 84,
    ),
  ],
)
def test_a_product_as_the_tpu_compiler_writes_it(
  left, right, result, window, labels, products
):
  window = f"window={{{window}}}, " if window else ""
  found = counts.count(
    f"%p = f32[{left}] parameter(0)",
    f"%q = f32[{right}] parameter(1)",
    f"%c = f32[{result}] convolution(%p, %q), {window}dim_labels={labels}",
  )
  assert found.flops == 2 * products


def test_a_product_of_a_gpu_library():
  found = counts.count(
    "%p = bf16[4,8,32] parameter(0)",
    "%q = bf16[4,32,16] parameter(1)",
    "%c = (bf16[4,8,16], s8[4096]) custom-call(%p, %q), "
    'custom_call_target="__cublas$gemm", backend_config={"gemm_backend_config":'
    '{"alpha_real":1,"dot_dimension_numbers":{"lhs_contracting_dimensions":'
    '["2"],"rhs_contracting_dimensions":["1"],"lhs_batch_dimensions":["0"]}}}',
  )
  assert found.flops == 2 * 4 * 8 * 32 * 16


def test_a_reduction_of_n_numbers_has_n_minus_1_additions():
  found = counts.count(
    "%p = f32[8,32] parameter(0)",
    "%z = f32[] constant(0)",
    "%s = f32[8] reduce(%p, %z), dimensions={1}, to_apply=%add",
  )
  assert found.flops == 8 * 31


def test_flops_are_the_compilers_without_loops():
  def loss(w, x):
    hidden = jnp.maximum(jnp.einsum("bsd,dhk->bhsk", x, w), 0.0)
    return jnp.sum(jnp.einsum("bhsk,bhtk->bhst", hidden, hidden) ** 2)

  program = counts.compiled(jax.grad(loss), (16, 4, 8), (8, 32, 16))
  found = hlo_counts.count(program.as_text())
  expected = program.cost_analysis()["flops"]
  assert found.flops == pytest.approx(expected, rel=0.02)
