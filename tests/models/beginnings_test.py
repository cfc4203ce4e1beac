# SPDX-License-Identifier: Apache-2.0
"""A beginning that is there once, against one that each row has."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.models import attention
from rlaif_jax.models import beginnings
from rlaif_jax.models import cache as cache_lib

ROWS, LENGTH, HEADS, KEY_HEADS, CHANNELS = 3, 4, 4, 2, 8
COMMON, OWN = 5, 6


def arrays(dtype):
  generator = np.random.default_rng(0)

  def draw(*shape):
    return jnp.asarray(generator.normal(0, 1, shape), dtype)

  query = draw(ROWS, LENGTH, HEADS, CHANNELS)
  first = [draw(1, KEY_HEADS, COMMON, CHANNELS) for _ in "kv"]
  own = [draw(ROWS, KEY_HEADS, OWN, CHANNELS) for _ in "kv"]
  mask = generator.random((ROWS, LENGTH, OWN)) < 0.6
  mask[0, 0] = False  # Sees the beginning alone.
  return query, first, own, jnp.asarray(mask)


def masks():
  """One for all rows and columns; one for each, as a window makes it."""
  generator = np.random.default_rng(1)
  alike = np.ones((1, 1, COMMON), bool)
  alike[..., 0] = False
  each = generator.random((ROWS, LENGTH, COMMON)) < 0.5
  each[1] = False  # Too far away; the row sees its own columns alone.
  each[0, 0, 0] = True
  return {"alike": alike, "each": each}


@pytest.mark.parametrize("which", masks())
@pytest.mark.parametrize("scale", [0.0, 1.7])
def test_it_equals_attention_to_copies(which, scale):
  query, first, own, mask = arrays("float32")
  begin_mask = jnp.asarray(masks()[which])
  found = beginnings.attend_after(
    query, beginnings.Beginning(*first, begin_mask), *own, mask, scale=scale
  )
  copies = [
    jnp.concatenate([jnp.repeat(a, ROWS, axis=0), b], axis=2)
    for a, b in zip(first, own, strict=True)
  ]
  shape = (ROWS, LENGTH, COMMON)
  whole = jnp.concatenate([jnp.broadcast_to(begin_mask, shape), mask], axis=2)
  expected = attention.attend(query, *copies, whole, scale=scale)
  seen = np.asarray(whole.any(axis=2))
  np.testing.assert_allclose(found[seen], expected[seen], atol=1e-5)
  assert np.isfinite(found).all()


def test_large_scores_do_not_overflow():
  query, first, own, mask = arrays("float32")
  begin_mask = jnp.asarray(masks()["alike"])
  beginning = beginnings.Beginning(first[0] * 100, first[1], begin_mask)
  found = beginnings.attend_after(query * 100, beginning, *own, mask)
  assert np.isfinite(found).all() and np.abs(found).max() > 0.1


def test_bfloat16_stays_near_float32():
  begin_mask = jnp.asarray(masks()["alike"])
  found = []
  for dtype in ("float32", "bfloat16"):
    query, first, own, mask = arrays(dtype)
    beginning = beginnings.Beginning(*first, begin_mask)
    out = beginnings.attend_after(query, beginning, *own, mask)
    assert out.dtype == dtype
    found.append(out.astype(jnp.float32))
  np.testing.assert_allclose(*found, atol=0.04)


def test_nothing_is_copied_for_each_row():
  """In the compiled program no array has rows times the beginning's keys."""
  query, first, own, mask = arrays("float32")
  begin_mask = jnp.asarray(masks()["alike"])
  beginning = beginnings.Beginning(*first, begin_mask)
  call = jax.jit(beginnings.attend_after)
  text = call.lower(query, beginning, *own, mask).compile().as_text()
  assert f"[{ROWS},{KEY_HEADS},{COMMON},{CHANNELS}]" not in text
  assert f"[1,{KEY_HEADS},{COMMON},{CHANNELS}]" in text


def test_columns_of_a_mask_are_taken_where_it_has_them():
  _, first, _, _ = arrays("float32")
  cache = cache_lib.Cache(
    keys=(first[0],) * 2,
    values=(first[1],) * 2,
    last_keys=(first[0][:, :0, 0],) * 2,
    places=jnp.arange(COMMON)[None],
    column=jnp.asarray(COMMON),
    first=jnp.asarray(COMMON),
  )
  both = [jnp.asarray(masks()[name]) for name in ("alike", "each")]
  layers = beginnings.of_layers(cache, both)
  assert len(layers) == 2
  alike, each = layers[1]
  columns = jnp.array([[3, 0], [1, 1], [2, 3]])
  np.testing.assert_array_equal(alike.asked_by(columns).mask, both[0])
  np.testing.assert_array_equal(
    each.asked_by(columns).mask[0], both[1][0, jnp.array([3, 0])]
  )
