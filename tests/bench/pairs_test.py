# SPDX-License-Identifier: Apache-2.0
"""Pairs of the benches, and what reading them has to cost."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from rlaif_jax.bench import model_flops
from rlaif_jax.bench import pairs
from rlaif_jax.core import masked
from rlaif_jax.data import packing
from rlaif_jax.models import decoder
from tests import testing

CONFIG = testing.tiny_decoder(40)


def test_pairs_share_prompts_and_ragged_ones_differ_in_length():
  full = pairs.random_pairs(6, 10, 4, vocab_size=40)
  assert full.first.valid.all() and full.second.valid.all()
  np.testing.assert_array_equal(
    full.first.tokens[:, :10], full.second.tokens[:, :10]
  )
  lengths = packing.lengths_of(
    pairs.random_pairs(64, 40, 8, ragged=True, vocab_size=40)
  )
  assert len(set(lengths.prompt)) > 10
  assert 0.4 < lengths.both.mean() / 56 < 0.7


def test_packed_pairs_are_in_fewer_columns():
  data = pairs.random_pairs(64, 40, 8, ragged=True, vocab_size=40)
  rows = pairs.pack(data)
  assert rows.is_packed and rows.texts.tokens.size < 0.7 * (64 * 56)


def test_phases_count_a_prompt_once():
  data = pairs.random_pairs(2, 10, 4, vocab_size=40)
  update, optimizer = pairs.update_phases(CONFIG, data, with_logits=True)
  by_hand = model_flops.group_pass(
    CONFIG,
    name="update",
    columns=2 * 18,
    attended=2 * (55 + 2 * (40 + 10)),
    states=2 * 8,
    logits=2 * 8,
    passes=3,
  )
  assert update == by_hand
  assert pairs.forward_phase(CONFIG, data).flops == by_hand.flops / 3
  assert optimizer.bytes > 0


def test_each_call_is_one_update():
  functions = decoder.functions(CONFIG)

  def loss(params, batch, key):
    del key
    total = jnp.sum(params["embedding"]["table"] ** 2) * batch["x"][0]
    return masked.WeightedSum(total, jnp.ones(())), {}

  call = pairs.make_update(functions.init, loss, {"x": np.ones(1)})
  assert int(call()[0]) == 1 and int(call()[0]) == 2
