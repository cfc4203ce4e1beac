# SPDX-License-Identifier: Apache-2.0
"""Text to arrays: padding, cuts, and the order of rows."""

from __future__ import annotations

import collections
import dataclasses

import numpy as np
import pytest

from rlaif_jax.core import records
from rlaif_jax.data import converters
from rlaif_jax.text import long_texts
from tests import testing

TOKENIZER = testing.CharTokenizer(bos=True)
CONFIG = converters.SequenceConfig(max_context=4, max_response=4, suffix="\n")


def text(tokens, valid):
  return TOKENIZER.decode([int(t) for t in tokens[valid]])


def test_prompts_are_left_padded_and_lose_the_end_of_long_contexts():
  batch, cut = converters.encode_prompts(["ab", "abcdef"], TOKENIZER, CONFIG)
  assert cut == 1
  assert text(batch.prompt[0], batch.prompt_valid[0]) == "ab\n"
  assert text(batch.prompt[1], batch.prompt_valid[1]) == "abcd\n"
  assert batch.prompt_valid[0].tolist() == [False, False] + [True] * 4
  assert batch.prompt[0][2] == TOKENIZER.bos_id
  assert text(batch.context[0], batch.context_valid[0]) == "ab"
  assert batch.prompt.shape[1] == converters.prompt_length(CONFIG, TOKENIZER)


def test_a_long_dialogue_loses_its_start():
  config = dataclasses.replace(CONFIG, truncate="start")
  batch, cut = converters.encode_prompts(["ab", "abcdef"], TOKENIZER, config)
  assert cut == 1
  assert text(batch.prompt[0], batch.prompt_valid[0]) == "ab\n"
  assert text(batch.prompt[1], batch.prompt_valid[1]) == "cdef\n"
  assert text(batch.context[1], batch.context_valid[1]) == "cdef"


def test_a_cut_response_has_no_end_token():
  """Trap: a model that learns to stop where a text was cut."""
  tokens, mask, cut = converters.encode_responses(["ab", "abcd"], TOKENIZER, 4)
  assert cut == 1
  assert tokens[0][2] == TOKENIZER.eos_id and mask[0].tolist() == [1, 1, 1, 0]
  assert TOKENIZER.eos_id not in tokens[1] and mask[1].tolist() == [1] * 4


def test_examples_join_prompt_and_response():
  example = records.Example(id="1", context="ab", response="x")
  batch, counts = converters.encode_examples([example], TOKENIZER, CONFIG)
  assert text(batch.tokens[0], batch.valid[0]) == "ab\nx"
  assert batch.weights.tolist() == [[1, 1, 0, 0]]
  assert counts == {"cut_contexts": 0, "cut_responses": 0}


def test_pairs_keep_label_and_sides():
  pair = records.Preference(
    id="1", context="ab", first="x", second="yz", p_first=0.25, labeler="l"
  )
  batch, _ = converters.encode_preferences([pair], TOKENIZER, CONFIG)
  assert text(batch.first.tokens[0], batch.first.valid[0]) == "ab\nx"
  assert text(batch.second.tokens[0], batch.second.valid[0]) == "ab\nyz"
  assert batch.label.tolist() == [0.25]


def test_every_row_is_seen_once_an_epoch_and_steps_stand_alone():
  def rows(step):
    return converters.epoch_rows(
      num_rows=7, batch_size=3, seed=0, name="t", step=step
    )

  seen = np.concatenate([rows(step) for step in range(14)])
  for epoch in range(6):
    part = seen[7 * epoch : 7 * (epoch + 1)]
    assert sorted(part) == list(range(7))
  assert collections.Counter(seen[:42]) == dict.fromkeys(range(7), 6)
  np.testing.assert_array_equal(rows(5), seen[15:18])
  assert seen[:7].tolist() != seen[7:14].tolist()


def test_a_batch_larger_than_the_data_goes_round():
  rows = converters.epoch_rows(
    num_rows=2, batch_size=5, seed=0, name="t", step=0
  )
  assert sorted(rows[:4]) == [0, 0, 1, 1] and len(rows) == 5


def test_an_empty_split_is_an_error():
  with pytest.raises(ValueError, match="has no rows"):
    converters.epoch_rows(num_rows=0, batch_size=2, seed=0, name="t", step=0)


def test_chunks_have_one_shape_and_count_what_is_real():
  parts = converters.chunks(5, 2)
  assert [rows.tolist() for rows, _ in parts] == [[0, 1], [2, 3], [4, 4]]
  assert [real for _, real in parts] == [2, 2, 1]


@pytest.mark.parametrize(
  "vocab_size, max_length, word",
  [(7, 99, "131 pieces and the model 7"), (131, 9, "max_context")],
)
def test_what_does_not_fit_is_an_error(vocab_size, max_length, word):
  with pytest.raises(ValueError, match=word):
    converters.check_fits(
      CONFIG, TOKENIZER, vocab_size=vocab_size, max_length=max_length
    )


def test_long_texts_are_cut_before_they_are_encoded(monkeypatch):
  """No array changes, and no text of over WHOLE characters is encoded."""
  tokenizer = testing.CharTokenizer()
  config = converters.SequenceConfig(max_context=9, max_response=7)
  rows = [
    records.Example(id="a", context="ab c" * 5000, response="xy z" * 5000),
    records.Example(id="b", context="ab c", response="xy z"),
  ]
  expected, counts = converters.encode_examples(rows, tokenizer, config)
  assert counts == {"cut_contexts": 1, "cut_responses": 1}
  monkeypatch.setattr(long_texts, "WHOLE", 500)
  encode = tokenizer.encode_plain

  def encode_plain(text):
    assert len(text) <= 500
    return encode(text)

  monkeypatch.setattr(tokenizer, "encode_plain", encode_plain)
  found, again = converters.encode_examples(rows, tokenizer, config)
  assert again == counts
  for name in ("tokens", "valid", "weights"):
    np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
