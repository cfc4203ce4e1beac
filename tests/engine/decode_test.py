# SPDX-License-Identifier: Apache-2.0
"""Sampling with a cache against full forwards; rows do not see each other."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.core import batches
from rlaif_jax.engine import decode
from rlaif_jax.engine import scoring
from rlaif_jax.models import decoder
from rlaif_jax.models import t5
from tests import testing

VOCAB, EOS, PROMPT, LENGTH = 11, 1, 6, 7
FUNCTIONS = decoder.functions(testing.tiny_decoder(VOCAB))
CONFIG = decode.SamplingConfig(max_tokens=LENGTH, temperature=0.7)
STATIC = ("config", "eos_ids")
generate = jax.jit(
  functools.partial(decode.generate, FUNCTIONS), static_argnames=STATIC
)


@pytest.fixture(scope="module")
def params():
  return testing.build(FUNCTIONS)


def prompts(rows=8):
  generator = np.random.default_rng(0)
  tokens = generator.integers(2, VOCAB, (rows, PROMPT))
  valid = (
    np.arange(PROMPT)[None] >= generator.integers(0, PROMPT, rows)[:, None]
  )
  return jnp.asarray(tokens), jnp.asarray(valid)


def draw(
  params,
  tokens,
  valid,
  rows,
  config=CONFIG,
  eos_ids=(EOS,),
  limits=None,
  num_samples=None,
):
  keys = decode.row_keys(jax.random.key(3), jnp.asarray(rows), num_samples)
  settings = dict(config=config, eos_ids=eos_ids, limits=limits)
  return generate(params, tokens, valid, keys, **settings)


def test_log_probs_are_those_of_the_full_forward_at_the_temperature(params):
  """Trap: another temperature or precision in rollout than in training makes
  the first importance ratio differ from 1."""
  tokens, valid = prompts()
  sampled = draw(params, tokens, valid, range(8))
  batch = batches.TokenBatch(
    tokens=jnp.concatenate([tokens, sampled.response], axis=1),
    valid=jnp.concatenate([valid, sampled.mask > 0], axis=1),
    weights=sampled.mask,
  )
  full = scoring.response_log_probs(
    FUNCTIONS, params, batch, temperature=CONFIG.temperature
  )
  ratio = jnp.exp(jnp.where(sampled.mask > 0, full - sampled.log_probs, 0.0))
  np.testing.assert_allclose(ratio, 1.0, atol=1e-5)
  assert float(sampled.mask.sum()) > 8


def test_samples_of_one_prompt_are_those_of_the_repeated_prompt(params):
  tokens, valid = prompts(4)
  once = draw(params, tokens, valid, range(4), num_samples=3)
  assert once.response.shape == (4, 3, LENGTH)
  assert once.mask.shape == once.log_probs.shape == (4, 3, LENGTH)
  once = once.reshape((12,))
  repeated = (jnp.repeat(x, 3, axis=0) for x in (tokens, valid))
  again = draw(params, *repeated, range(12))
  np.testing.assert_array_equal(once.response, again.response)
  np.testing.assert_allclose(once.log_probs, again.log_probs, atol=1e-5)


def test_limits_have_the_shape_of_the_keys(params):
  tokens, valid = prompts(2)
  limits = jnp.array([[1, 3], [2, 7]])
  for config in (CONFIG, in_slots(3)):
    cut = draw(
      params,
      tokens,
      valid,
      range(2),
      config=config,
      eos_ids=(-1,),
      limits=limits,
      num_samples=2,
    )
    np.testing.assert_array_equal(cut.mask.sum(axis=-1), limits)


def test_a_row_does_not_depend_on_its_batch(params):
  tokens, valid = prompts()
  all_rows = draw(params, tokens, valid, range(8))
  order = np.array([5, 2, 7])
  some = draw(params, tokens[order], valid[order], order)
  np.testing.assert_array_equal(all_rows.response[order], some.response)


def test_mask_ends_with_the_first_end_token(params):
  tokens, valid = prompts(64)
  sampled = draw(params, tokens, valid, range(64))
  ended = 0
  for response, mask in zip(*map(np.asarray, (sampled.response, sampled.mask))):
    places = np.flatnonzero(response == EOS)
    length = places[0] + 1 if len(places) else LENGTH
    ended += len(places) > 0
    np.testing.assert_array_equal(mask, np.arange(LENGTH) < length)
    np.testing.assert_array_equal(response[length:], 0)
  assert 0 < ended < 64


def test_any_of_several_end_tokens_ends(params):
  """Trap: only one of the stop tokens is looked for."""
  tokens, valid = prompts(64)
  sampled = draw(params, tokens, valid, range(64), eos_ids=(EOS, 5, 6))
  last = np.asarray(sampled.mask).sum(axis=1).astype(int) - 1
  ends = np.asarray(sampled.response)[np.arange(64), last]
  short = last < LENGTH - 1
  assert short.any() and np.isin(ends[short], (EOS, 5, 6)).all()
  assert len(set(ends[short])) > 1


def test_greedy_is_the_argmax_of_full_forwards(params):
  tokens, valid = prompts(2)
  config = decode.SamplingConfig(max_tokens=4, temperature=0.0)
  sampled = draw(params, tokens, valid, range(2), config=config, eos_ids=(99,))
  for step in range(4):
    hidden = testing.all_hidden(
      FUNCTIONS,
      params,
      jnp.concatenate([tokens, sampled.response[:, :step]], axis=1),
      jnp.concatenate([valid, sampled.mask[:, :step] > 0], axis=1),
    )
    logits = FUNCTIONS.logits(params, hidden[:, -1])
    np.testing.assert_array_equal(
      sampled.response[:, step], jnp.argmax(logits, axis=-1)
    )


@pytest.mark.parametrize(
  "changes",
  [{"max_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"slots": -1}],
)
def test_bad_settings_are_named(changes):
  with pytest.raises(ValueError, match=next(iter(changes))):
    decode.SamplingConfig(**{"max_tokens": 3, **changes})


def test_sample_frequencies_follow_the_probabilities(params):
  tokens, valid = prompts(1)
  many = 4000
  sampled = draw(
    params,
    jnp.repeat(tokens, many, axis=0),
    jnp.repeat(valid, many, axis=0),
    range(many),
    config=decode.SamplingConfig(max_tokens=1, temperature=0.7),
  )
  hidden = testing.all_hidden(FUNCTIONS, params, tokens, valid)
  logits = FUNCTIONS.logits(params, hidden[:, -1])[0] / 0.7
  expected = np.asarray(jax.nn.softmax(logits))
  seen = np.bincount(np.asarray(sampled.response)[:, 0], minlength=VOCAB) / many
  np.testing.assert_allclose(seen, expected, atol=0.035)


def in_slots(slots):
  return dataclasses.replace(CONFIG, slots=slots)


@pytest.mark.parametrize("slots, samples", [(1, 1), (3, 1), (3, 4), (5, 2)])
def test_slots_change_no_sample(params, slots, samples):
  """Prompts are read in parts, slots refilled again and again; columns of the
  cache come round several times."""
  tokens, valid = prompts(7)
  settings = dict(eos_ids=(EOS, 4, 5), num_samples=samples)
  expected = draw(params, tokens, valid, range(7), **settings)
  found = draw(
    params, tokens, valid, range(7), config=in_slots(slots), **settings
  )
  lengths = np.asarray(expected.mask).sum(axis=-1).reshape(-1)
  assert len(set(lengths)) > 1 and lengths.sum() > slots * LENGTH
  np.testing.assert_array_equal(found.response, expected.response)
  np.testing.assert_array_equal(found.mask, expected.mask)
  np.testing.assert_allclose(found.log_probs, expected.log_probs, atol=1e-5)


def test_as_many_slots_as_responses_are_all_at_once(params):
  tokens, valid = prompts(3)
  expected = draw(params, tokens, valid, range(3))
  found = draw(params, tokens, valid, range(3), config=in_slots(9))
  np.testing.assert_array_equal(found.response, expected.response)


def test_a_response_ends_at_its_limit(params):
  tokens, valid = prompts(8)
  limits = jnp.array([1, 7, 2, 3, 7, 1, 5, 4])
  free = draw(params, tokens, valid, range(8), eos_ids=(-1,))
  for config in (CONFIG, in_slots(3)):
    cut = draw(
      params,
      tokens,
      valid,
      range(8),
      config=config,
      eos_ids=(-1,),
      limits=limits,
    )
    expected = np.arange(LENGTH)[None] < np.asarray(limits)[:, None]
    np.testing.assert_array_equal(cut.mask, expected)
    np.testing.assert_array_equal(cut.response, free.response * expected)


@pytest.mark.parametrize("slots, steps", [(0, 7), (2, 8), (1, 16)])
def test_a_slot_that_has_ended_goes_on_in_the_next_step(params, slots, steps):
  """The fourth response has 7 tokens, nine have 1: two slots need one step
  and seven more, all at once need 7, of ten rows."""
  rows = []

  def decode_step(params, tokens, valid, cache):
    jax.debug.callback(lambda: rows.append(tokens.shape[0]))
    return FUNCTIONS.decode_step(params, tokens, valid, cache)

  model = dataclasses.replace(FUNCTIONS, decode_step=decode_step)
  tokens, valid = prompts(10)
  jax.block_until_ready(
    jax.jit(functools.partial(decode.generate, model), static_argnames=STATIC)(
      params,
      tokens,
      valid,
      decode.row_keys(jax.random.key(0), jnp.arange(10)),
      config=in_slots(slots),
      eos_ids=(-1,),
      limits=jnp.array([1, 1, 1, 7, 1, 1, 1, 1, 1, 1]),
    )
  )
  jax.effects_barrier()
  assert rows == [slots or 10] * steps


@pytest.mark.parametrize("slots", [0, 3])
def test_the_loop_copies_no_cache(params, slots):
  """Trap: a cache that is written by one part of the loop's body and read by
  another is copied for every token."""
  tokens, valid = prompts(5)
  keys = decode.row_keys(jax.random.key(0), jnp.arange(5))
  settings = dict(config=in_slots(slots), eos_ids=(EOS,))
  text = generate.lower(params, tokens, valid, keys, **settings)
  text = text.compile().as_text()
  cache = f"f32[{slots or 5},2,{PROMPT + LENGTH},8]"
  entry = text.index("\nENTRY ")
  loops = text[:entry].splitlines()
  assert any(f"= {cache}" in line and "update-slice" in line for line in loops)
  copies = [line for line in loops if f"= {cache}" in line and " copy(" in line]
  assert not copies


def test_an_encoder_decoder_has_no_slots():
  sizes = dict(vocab_size=VOCAB, width=8, num_layers=1, num_decoder_layers=1)
  heads = dict(num_heads=1, head_dim=8, mlp_dim=8, max_length=32)
  model = t5.functions(t5.T5Config(**sizes, **heads))
  tokens, valid = prompts(2)
  with pytest.raises(ValueError, match="slots = 0"):
    decode.generate(
      model,
      testing.build(model),
      tokens,
      valid,
      decode.row_keys(jax.random.key(0), jnp.arange(2)),
      config=in_slots(1),
      eos_ids=(EOS,),
    )
