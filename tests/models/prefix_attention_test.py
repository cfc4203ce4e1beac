# SPDX-License-Identifier: Apache-2.0
"""Attention to a shared prefix, against a copy in each row."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.core import batches
from rlaif_jax.engine import decode
from rlaif_jax.engine import prefix_sharing
from rlaif_jax.engine import scoring
from rlaif_jax.models import architectures
from rlaif_jax.models import attention
from rlaif_jax.models import prefix_attention
from rlaif_jax.models import cache as cache_lib
from rlaif_jax.models import layouts
from tests import testing
from tests.models import architectures_test

FAMILIES, VOCAB = architectures_test.FAMILIES, architectures_test.VOCAB
CAUSAL = [name for name in FAMILIES if not name.startswith("t5")]
OPTIONS = ((3,), (4, 5), (4, 6))

ROWS, LENGTH, HEADS, KEY_HEADS, CHANNELS = 3, 4, 4, 2, 8
COMMON, OWN = 5, 6


def given(mask):
  return layouts.Layout(None, None, jnp.asarray(mask))


def arrays(dtype):
  generator = np.random.default_rng(0)

  def draw(*shape):
    return jnp.asarray(generator.normal(0, 1, shape), dtype)

  query = draw(ROWS, LENGTH, HEADS, CHANNELS)
  first = [draw(1, KEY_HEADS, COMMON, CHANNELS) for _ in "kv"]
  own = [draw(ROWS, KEY_HEADS, OWN, CHANNELS) for _ in "kv"]
  mask = generator.random((ROWS, LENGTH, OWN)) < 0.6
  mask[0, 0] = False  # Attends to the prefix only.
  return query, first, own, jnp.asarray(mask)


def masks():
  """One for all rows and columns; one for each, as a window makes it."""
  generator = np.random.default_rng(1)
  alike = np.ones((1, 1, COMMON), bool)
  alike[..., 0] = False
  each = generator.random((ROWS, LENGTH, COMMON)) < 0.5
  each[1] = False  # Too far away; attends to its own columns only.
  each[0, 0, 0] = True
  return {"alike": alike, "each": each}


@pytest.mark.parametrize("which", masks())
@pytest.mark.parametrize("scale", [0.0, 1.7])
def test_it_equals_attention_to_copies(which, scale):
  query, first, own, mask = arrays("float32")
  begin_mask = jnp.asarray(masks()[which])
  found = prefix_attention.attend_after(
    query,
    prefix_attention.Prefix(cache_lib.LayerCache(*first), given(begin_mask)),
    *own,
    given(mask),
    scale=scale,
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
  prefix = prefix_attention.Prefix(
    cache_lib.LayerCache(first[0] * 100, first[1]), given(begin_mask)
  )
  found = prefix_attention.attend_after(query * 100, prefix, *own, given(mask))
  assert np.isfinite(found).all() and np.abs(found).max() > 0.1


def test_bfloat16_stays_near_float32():
  begin_mask = jnp.asarray(masks()["alike"])
  found = []
  for dtype in ("float32", "bfloat16"):
    query, first, own, mask = arrays(dtype)
    prefix = prefix_attention.Prefix(
      cache_lib.LayerCache(*first), given(begin_mask)
    )
    out = prefix_attention.attend_after(query, prefix, *own, given(mask))
    assert out.dtype == dtype
    found.append(out.astype(jnp.float32))
  np.testing.assert_allclose(*found, atol=0.04)


def test_nothing_is_copied_for_each_row():
  """In the compiled program no array has the prefix's keys for each row."""
  query, first, own, mask = arrays("float32")
  begin_mask = jnp.asarray(masks()["alike"])
  prefix = prefix_attention.Prefix(
    cache_lib.LayerCache(*first), given(begin_mask)
  )
  call = jax.jit(prefix_attention.attend_after)
  text = call.lower(query, prefix, *own, given(mask)).compile().as_text()
  assert f"[{ROWS},{KEY_HEADS},{COMMON},{CHANNELS}]" not in text
  assert f"[1,{KEY_HEADS},{COMMON},{CHANNELS}]" in text


def test_columns_of_a_mask_are_taken_where_it_has_them():
  _, first, _, _ = arrays("float32")
  cache = cache_lib.Cache(
    layers=(cache_lib.LayerCache(*first),) * 2,
    positions=jnp.arange(COMMON)[None],
    next_column=jnp.asarray(COMMON),
    first_column=jnp.asarray(COMMON),
  )
  both = [jnp.asarray(masks()[name]) for name in ("alike", "each")]
  zero = jnp.zeros((ROWS, LENGTH), int)
  queries = layouts.Columns(zero, zero, zero, zero)
  layers = prefix_attention.of_layers(
    cache, [layouts.Layout(queries, None, mask) for mask in both]
  )
  assert len(layers) == 2
  alike, each = layers[1]
  columns = jnp.array([[3, 0], [1, 1], [2, 3]])
  np.testing.assert_array_equal(alike.at(columns).layout.mask, both[0])
  np.testing.assert_array_equal(
    each.at(columns).layout.mask[0], both[1][0, jnp.array([3, 0])]
  )


@pytest.mark.parametrize("dtype, atol", [("float32", 1e-4), ("bfloat16", 0.1)])
@pytest.mark.parametrize("name", CAUSAL)
def test_rows_after_a_prefix_are_whole_rows(name, dtype, atol):
  """Log-probs after a prefix of 5, group prefixes of 2 and 4 and suffixes of 1
  to 4 tokens, against each row read whole."""
  config = dataclasses.replace(FAMILIES[name], dtype=dtype)
  functions = testing.jitted(architectures.language(config))
  params = testing.build(functions)
  generator = np.random.default_rng(0)
  begin, *texts = (
    generator.integers(3, VOCAB, n).astype(np.int32) for n in (5, 2, 4, 1, 4, 3)
  )
  prefix, suffix, owner = texts[:2], texts[2:], [1, 0, 1]

  def padded(rows, length):
    pads = [length - len(row) for row in rows]
    tokens = np.stack([np.pad(r, (p, 0)) for r, p in zip(rows, pads)])
    return tokens, np.arange(length) >= np.array(pads)[:, None]

  (prefixes, prefix_valid), (suffixes, suffix_valid) = (
    padded(prefix, 5),
    padded(suffix, 6),
  )
  prefix_cache = prefix_sharing.prefill_prefix(
    functions, params, *padded([begin], 7)
  )
  found = scoring.shared_option_log_probs(
    functions,
    params,
    prefix_cache,
    prefix_sharing.SharedPrompts(
      group_tokens=prefixes,
      group_valid=prefix_valid,
      group_ids=jnp.array(owner),
      suffix=suffixes,
      suffix_valid=suffix_valid,
    ),
    OPTIONS,
  )
  rows = [
    np.concatenate([begin, prefix[mine], own])
    for mine, own in zip(owner, suffix, strict=True)
  ]
  expected = scoring.option_log_probs(
    functions, params, *padded(rows, 13), OPTIONS
  )
  assert np.std(expected) > 0.01
  np.testing.assert_allclose(found, expected, atol=atol)


@pytest.mark.parametrize("begin", [0, 5])
@pytest.mark.parametrize(
  "name",
  [
    # Its attention is Llama's, with biases.
    pytest.param(name, marks=testing.AT_NIGHT if name == "qwen2" else [])
    for name in CAUSAL
  ],
)
def test_packed_prompts_are_separate_prompts(name, begin):
  """After a prefix or none: two segments in one row, one with continuations."""
  functions = testing.jitted(architectures.language(FAMILIES[name]))
  params = testing.build(functions)
  generator = np.random.default_rng(1)
  first, *parts = (
    generator.integers(3, VOCAB, n).astype(np.int32)
    for n in (begin, 4, 2, 3, 0, 5)
  )
  row = np.concatenate([*parts, [0, 0]]).astype(np.int32)
  segments = np.repeat([1, 1, 1, 2, 2, 0], [4, 2, 3, 0, 5, 2])
  continuations = np.repeat([0, 1, 2, 0, 1, 0], [4, 2, 3, 0, 5, 2])
  packed = batches.PackedBatch(
    tokens=np.stack([row, 0 * row]),
    segment_ids=np.stack([segments, 0 * segments]),
    continuation_ids=np.stack([continuations, 0 * continuations]),
    columns=np.array([[5, 8, 13, 0], [0, 0, 0, 0]]),
  )
  options = ((4,), (7,), (5,))
  # The prefix is padded to eight.
  padded = np.pad(first, (8 - begin, 0))[None]
  prefix_cache = prefix_sharing.prefill_prefix(
    functions, params, padded, np.arange(8)[None] >= 8 - begin
  )
  found = scoring.packed_option_log_probs(
    functions, params, prefix_cache, packed, options
  )
  columns = np.array(
    [
      [9, 10, 11, 12, 13, -1, -1],
      [0, 1, 2, 3, 4, 5, -1],
      [0, 1, 2, 3, 6, 7, 8],
      [-1] * 7,
    ]
  )
  keys = decode.row_keys(jax.random.key(0), np.arange(4))
  write = dict(config=decode.SamplingConfig(max_tokens=5), eos_ids=(1,))
  samples = decode.generate_packed(
    functions, params, prefix_cache, packed, columns, keys, **write
  )
  assert samples.mask[3].sum() == 1  # Unused.
  for number, own in enumerate(([0, 1], [0, 2], [3, 4])):
    alone = np.concatenate([first, *(parts[i] for i in own)])[None]
    valid = np.ones(alone.shape, bool)
    expected = scoring.option_log_probs(
      functions, params, alone, valid, options
    )
    np.testing.assert_allclose(found[0, number], expected[0], atol=1e-4)
    row = [1, 2, 0][number]
    own = decode.generate(
      functions, params, alone, valid, keys[row : row + 1], **write
    )
    np.testing.assert_array_equal(samples.response[row], own.response[0])
    np.testing.assert_allclose(
      samples.log_probs[row], own.log_probs[0], atol=1e-4
    )
  assert np.isfinite(found).all() and np.std(found[0, :3]) > 0.01
