# SPDX-License-Identifier: Apache-2.0
"""Aligned memory and transposes."""

from __future__ import annotations

from concurrent import futures

import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.interop import buffers


@pytest.mark.parametrize("shape", [(), (7,), (3, 5, 2), (1000, 17)])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, jnp.bfloat16])
def test_memory_is_aligned(shape, dtype):
  array = buffers.aligned_empty(shape, dtype)
  assert array.ctypes.data % 64 == 0 and array.flags.c_contiguous
  assert array.shape == shape and array.dtype == dtype
  array[...] = 1
  assert (array == 1).all()


@pytest.mark.parametrize("shape", [(1, 1), (300, 7), (128, 256)])
def test_transposed_is_the_transpose(shape):
  matrix = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
  result = buffers.transposed(matrix)
  np.testing.assert_array_equal(result, matrix.T)
  assert result.flags.c_contiguous and result.ctypes.data % 64 == 0


def test_scratch_is_handed_out_again_by_its_thread():
  first = buffers.scratch((3, 4), np.float32)
  first[...] = 7
  second = buffers.scratch((2, 3), np.float16)
  assert np.shares_memory(first, second)
  assert second.shape == (2, 3) and second.dtype == np.float16
  with futures.ThreadPoolExecutor(1) as pool:
    other = pool.submit(buffers.scratch, (3, 4), np.float32).result()
  assert not np.shares_memory(first, other)
