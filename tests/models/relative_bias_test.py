# SPDX-License-Identifier: Apache-2.0
"""Buckets of relative positions."""

from __future__ import annotations

import jax.numpy as jnp

from rlaif_jax.models import relative_bias


def bucket(distance, both_ways):
  return int(
    relative_bias.buckets(
      jnp.asarray(distance), count=32, max_distance=128, both_ways=both_ways
    )
  )


def test_near_keys_have_buckets_of_their_own():
  assert [bucket(-n, True) for n in range(8)] == list(range(8))
  assert [bucket(n, True) for n in range(1, 8)] == list(range(17, 24))
  assert [bucket(-n, False) for n in range(16)] == list(range(16))


def test_far_keys_share_logarithmic_buckets():
  # Both ways: 8 buckets from 8 to 128, four per factor of four.
  assert [bucket(-n, True) for n in (8, 11, 12, 16, 64, 127)] == [
    8,
    8,
    9,
    10,
    14,
    15,
  ]
  assert bucket(-128, True) == bucket(-5000, True) == 15
  assert bucket(5000, True) == 31
  assert bucket(-5000, False) == 31


def test_a_decoder_never_looks_ahead():
  assert bucket(3, False) == bucket(0, False) == 0
