# SPDX-License-Identifier: Apache-2.0
"""Functions of texts: what they get, and how their failures name a row."""

from __future__ import annotations

import math
import types

import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.api import text_rewards
from rlaif_jax.core import batches
from rlaif_jax.core import protocols
from rlaif_jax.core import records
from tests import testing

TOKENIZER = testing.CharTokenizer()
ROWS = [
  records.Example(id=f"id{i}", context=text, response=text.upper())
  for i, text in enumerate(["aa", "bb", "cc"])
]
WORDS = [["x", "yy"], ["", "z"]]


class Custom(Exception):
  """An error that no base class announces."""


def encoded(texts, width):
  tokens = np.zeros((len(texts), width), np.int32)
  valid = np.zeros(tokens.shape, bool)
  for row, text in enumerate(texts):
    ids = TOKENIZER.encode(text)
    tokens[row, : len(ids)], valid[row, : len(ids)] = ids, True
  return tokens, valid


def call(function, rows=ROWS, **options):
  policy = types.SimpleNamespace(
    tokenizer=TOKENIZER,
    decode=lambda samples: [
      [TOKENIZER.decode(r[m > 0]) for r, m in zip(*row, strict=True)]
      for row in zip(samples.response, samples.mask, strict=True)
    ],
  )
  context, valid = encoded(["cc", "aa"], 2)
  tokens, real = encoded([text for row in WORDS for text in row], 3)
  prompts = batches.PromptBatch(
    prompt=context,
    prompt_valid=valid,
    context=context,
    context_valid=valid,
    row=np.array([2, 0], np.int32),
  )
  score = text_rewards.make_scorer(function, policy, **options)
  return score(
    rows,
    prompts,
    jnp.asarray(tokens.reshape(2, 2, 3)),
    jnp.asarray(real.reshape(2, 2, 3), jnp.float32),
  )


def test_it_gets_texts_and_rows():
  seen = []

  def function(contexts, responses, rows):
    seen.extend(zip(contexts, responses, [r.id for r in rows], strict=True))
    return np.arange(4)

  np.testing.assert_array_equal(call(function), [[0, 1], [2, 3]])
  assert seen == [
    ("cc", "x", "id2"),
    ("cc", "yy", "id2"),
    ("aa", "", "id0"),
    ("aa", "z", "id0"),
  ]


@pytest.mark.parametrize(
  "function, reads",
  [
    (lambda contexts, responses: [], False),
    (lambda contexts, responses, rows: [], True),
    (lambda contexts, responses, *, order=3: [], False),
    (lambda contexts, responses, order=3: [], False),
  ],
)
def test_three_arguments_read_rows(function, reads):
  assert text_rewards.reads_rows(function) == reads


def raises(error, at):
  def function(contexts, responses):
    for text in responses:
      if text == at:
        raise error
    return [0.0] * len(responses)

  return function


@pytest.mark.parametrize(
  "function, words",
  [
    (lambda c, r: [1.0], r"'polite' returned shape \(1,\) .* return 4 numbers"),
    (lambda c, r: 1.0, "'polite' returned shape 1.0"),
    (lambda c, r: [0, 1, math.nan, 2], "'polite' has no value.*'' to id0"),
    (lambda c, r: [0, None, 1, 2], "'polite' has no value.*'yy' to id2"),
    (lambda c, r: [0, math.inf, 1, 2], r"\(inf\).*'yy' to id2"),
    (lambda c, r: [0, 1, 2, "high"], "'high', no number,.*'z' to id0"),
    (raises(Custom("boom"), "yy"), "raises Custom: boom .*'yy' to id2"),
    (raises(KeyError("k"), "z"), "raises KeyError.*'z' to id0"),
  ],
)
def test_a_bad_function_is_named_with_the_row_and_the_text(function, words):
  with pytest.raises(protocols.RewardError, match=words):
    call(function, name="polite")


def test_an_error_of_all_responses_together_is_named():
  def function(contexts, responses):
    if len(responses) > 1:
      raise Custom("too many")
    return [0.0]

  with pytest.raises(protocols.RewardError, match="4 responses at once"):
    call(function)


def test_missing_values_may_be_allowed():
  found = call(lambda c, r: [0.0, None, math.nan, 2.0], allow_missing=True)
  np.testing.assert_array_equal(np.isnan(found), [[False, True], [True, False]])
  assert float(found[0, 0]) == 0.0


def test_without_rows_an_error_has_the_number():
  with pytest.raises(protocols.RewardError, match="to row 2"):
    call(lambda c, r: [None] * 4, rows=None)
