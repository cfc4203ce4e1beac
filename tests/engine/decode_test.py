# SPDX-License-Identifier: Apache-2.0
"""Sampling with a cache against full forwards; rows do not see each other."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.core import batches
from rlaif_jax.engine import decode
from rlaif_jax.engine import scoring
from rlaif_jax.models import decoder
from tests import testing

VOCAB, EOS, PROMPT, LENGTH = 11, 1, 6, 7
FUNCTIONS = decoder.functions(testing.tiny_decoder(VOCAB))
CONFIG = decode.SamplingConfig(max_tokens=LENGTH, temperature=0.7)
generate = jax.jit(
  functools.partial(decode.generate, FUNCTIONS),
  static_argnames=("config", "eos_ids"),
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


def draw(params, tokens, valid, rows, config=CONFIG, eos_ids=(EOS,)):
  keys = decode.row_keys(jax.random.key(3), jnp.asarray(rows))
  return generate(params, tokens, valid, keys, config=config, eos_ids=eos_ids)


def test_log_probs_are_those_of_the_full_forward_at_the_temperature(params):
  """Trap: another temperature or precision in rollout than in training makes
  the first importance ratio differ from 1."""
  tokens, valid = prompts()
  drawn = draw(params, tokens, valid, range(8))
  batch = batches.TokenBatch(
    tokens=jnp.concatenate([tokens, drawn.response], axis=1),
    valid=jnp.concatenate([valid, drawn.mask > 0], axis=1),
    weights=drawn.mask,
  )
  full = scoring.response_log_probs(
    FUNCTIONS, params, batch, temperature=CONFIG.temperature
  )
  ratio = jnp.exp(jnp.where(drawn.mask > 0, full - drawn.log_probs, 0.0))
  np.testing.assert_allclose(ratio, 1.0, atol=1e-5)
  assert float(drawn.mask.sum()) > 8


def test_samples_of_one_prompt_are_those_of_the_repeated_prompt(params):
  tokens, valid = prompts(4)
  once = draw(params, tokens, valid, range(12))
  repeated = (jnp.repeat(x, 3, axis=0) for x in (tokens, valid))
  again = draw(params, *repeated, range(12))
  np.testing.assert_array_equal(once.response, again.response)
  np.testing.assert_allclose(once.log_probs, again.log_probs, atol=1e-5)
  assert once.response.shape[0] == 12


def test_a_row_does_not_depend_on_its_batch(params):
  tokens, valid = prompts()
  all_rows = draw(params, tokens, valid, range(8))
  order = np.array([5, 2, 7])
  some = draw(params, tokens[order], valid[order], order)
  np.testing.assert_array_equal(all_rows.response[order], some.response)


def test_mask_ends_with_the_first_end_token(params):
  tokens, valid = prompts(64)
  drawn = draw(params, tokens, valid, range(64))
  ended = 0
  for response, mask in zip(*map(np.asarray, (drawn.response, drawn.mask))):
    places = np.flatnonzero(response == EOS)
    length = places[0] + 1 if len(places) else LENGTH
    ended += len(places) > 0
    np.testing.assert_array_equal(mask, np.arange(LENGTH) < length)
    np.testing.assert_array_equal(response[length:], 0)
  assert 0 < ended < 64


def test_any_of_several_end_tokens_ends(params):
  """Trap: only one of the stop tokens is looked for."""
  tokens, valid = prompts(64)
  drawn = draw(params, tokens, valid, range(64), eos_ids=(EOS, 5, 6))
  last = np.asarray(drawn.mask).sum(axis=1).astype(int) - 1
  ends = np.asarray(drawn.response)[np.arange(64), last]
  short = last < LENGTH - 1
  assert short.any() and np.isin(ends[short], (EOS, 5, 6)).all()
  assert len(set(ends[short])) > 1


def test_greedy_is_the_argmax_of_full_forwards(params):
  tokens, valid = prompts(2)
  config = decode.SamplingConfig(max_tokens=4, temperature=0.0)
  drawn = draw(params, tokens, valid, range(2), config=config, eos_ids=(99,))
  for step in range(4):
    hidden = testing.all_hidden(
      FUNCTIONS,
      params,
      jnp.concatenate([tokens, drawn.response[:, :step]], axis=1),
      jnp.concatenate([valid, drawn.mask[:, :step] > 0], axis=1),
    )
    logits = FUNCTIONS.logits(params, hidden[:, -1])
    np.testing.assert_array_equal(
      drawn.response[:, step], jnp.argmax(logits, axis=-1)
    )


@pytest.mark.parametrize(
  "changes", [{"max_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}]
)
def test_bad_settings_are_named(changes):
  with pytest.raises(ValueError, match=next(iter(changes))):
    decode.SamplingConfig(**{"max_tokens": 3, **changes})


def test_sample_frequencies_follow_the_probabilities(params):
  tokens, valid = prompts(1)
  many = 4000
  drawn = draw(
    params,
    jnp.repeat(tokens, many, axis=0),
    jnp.repeat(valid, many, axis=0),
    range(many),
    config=decode.SamplingConfig(max_tokens=1, temperature=0.7),
  )
  hidden = testing.all_hidden(FUNCTIONS, params, tokens, valid)
  logits = FUNCTIONS.logits(params, hidden[:, -1])[0] / 0.7
  expected = np.asarray(jax.nn.softmax(logits))
  seen = np.bincount(np.asarray(drawn.response)[:, 0], minlength=VOCAB) / many
  np.testing.assert_allclose(seen, expected, atol=0.035)
