# SPDX-License-Identifier: Apache-2.0
"""Masks, positions and layouts by hand; blocks of queries; the choice."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.models import layouts

CHUNKED = layouts.Kernel("chunked")


def test_positions_skip_padding():
  valid = jnp.array([[0, 1, 0, 1, 1]], bool)
  np.testing.assert_array_equal(
    layouts.positions_from_valid(valid), [[0, 0, 0, 1, 2]]
  )


def test_mask_is_causal_and_valid():
  layout = layouts.causal_layout(jnp.array([[1, 0, 1]], bool))
  np.testing.assert_array_equal(
    layout.mask[0], [[1, 0, 0], [1, 0, 0], [1, 0, 1]]
  )


def test_a_layout_at_columns_and_within_a_window():
  layout = layouts.causal_layout(jnp.array([[1, 0, 1, 1]], bool))
  np.testing.assert_array_equal(layout.positions, [[0, 0, 1, 2]])
  near = layout.within(2).at(jnp.array([[3, 0]]))
  assert layout.is_whole and not near.is_whole
  np.testing.assert_array_equal(near.positions, [[2, 0]])
  np.testing.assert_array_equal(near.key_positions, layout.key_positions)
  np.testing.assert_array_equal(near.mask[0], [[0, 0, 1, 1], [1, 0, 0, 0]])


@pytest.mark.parametrize("kernel", [layouts.PLAIN, CHUNKED])
def test_packed_columns_attend_to_their_prompt_and_continuation(
  monkeypatch, kernel
):
  monkeypatch.setattr(layouts, "BLOCK_SCORES", 0)
  repeats = 2  # More columns than a block of eight has.
  layout = layouts.packed_layout(
    jnp.array([[1, 1, 1, 2, 2, 0] + [3, 3, 0, 0, 0, 0]]),
    jnp.array([[0, 1, 2, 0, 1, 0] * repeats]),
    kernel,
  )
  assert (layout.mask is None) == (kernel is CHUNKED)
  np.testing.assert_array_equal(
    layout.whole_mask()[0, :6, :6],
    [
      [1, 0, 0, 0, 0, 0],
      [1, 1, 0, 0, 0, 0],
      [1, 0, 1, 0, 0, 0],
      [0, 0, 0, 1, 0, 0],
      [0, 0, 0, 1, 1, 0],
      [0, 0, 0, 0, 0, 0],
    ],
  )
  np.testing.assert_array_equal(
    layout.positions, [[0, 1, 1, 0, 1, 0, 0, 1, 0, 0, 0, 0]]
  )


def test_columns_of_a_cache_are_read_by_position():
  layout = layouts.cached_layout(
    jnp.array([[2, 3]]), jnp.array([[0, 3, -1, 1, 2]])
  )
  np.testing.assert_array_equal(
    layout.mask[0], [[1, 0, 0, 1, 1], [1, 1, 0, 1, 1]]
  )
  near = layout.within(2).mask[0]
  np.testing.assert_array_equal(near, [[0, 0, 0, 1, 1], [0, 1, 0, 0, 1]])


def test_every_segment_reads_the_prefix():
  own = layouts.packed_layout(jnp.array([[1, 2, 2]]), jnp.array([[0, 0, 0]]))
  own = own.replace(queries=own.queries.replace(positions=own.positions + 3))
  seen = layouts.prefix_layout(own, jnp.array([[-1, 0, 1, 2]]))
  np.testing.assert_array_equal(seen.whole_mask()[0], [[0, 1, 1, 1]])
  near = seen.within(3).mask[0]
  np.testing.assert_array_equal(near[0], [0, 0, 1, 1])
  np.testing.assert_array_equal(near[2], [0, 0, 0, 1])


@pytest.mark.parametrize("length", [1, 8, 19])
def test_blocks_join_to_the_whole(monkeypatch, length):
  monkeypatch.setattr(layouts, "BLOCK_SCORES", 0)
  x = jax.random.normal(jax.random.key(0), (2, length, 3))

  def apply(x):
    assert x.shape[1] <= 8
    return jnp.sin(x) * jnp.cumsum(x, axis=2)

  def total(x):
    return jnp.sum(layouts.in_blocks(apply, x, 5) ** 2)

  np.testing.assert_allclose(layouts.in_blocks(apply, x, 5), apply_all(x))
  gradient = jax.grad(lambda x: jnp.sum(apply_all(x) ** 2))(x)
  np.testing.assert_allclose(jax.grad(total)(x), gradient, rtol=1e-5)


def apply_all(x):
  return jnp.sin(x) * jnp.cumsum(x, axis=2)


def test_the_kernel_of_the_devices_is_for_long_rows():
  sharding = mesh_lib.activation_sharding(mesh_lib.make_mesh("data:-1"))

  def name(option, *lengths):
    return layouts.choose(option, sharding, *lengths).name

  assert name("auto", 1024, 1024) == "plain"
  assert name("auto", 1025, 1025) == "chunked"
  assert name("auto", 1, 1 << 30) == "plain"  # A decode step.
  assert name("splash", 8, 8) == "splash"
  assert name("plain", 4096, 4096) == "plain"
  assert layouts.choose("splash", sharding, 8, 8).interpret
  assert layouts.choose("auto", None, 2000, 2000).name == "chunked"
