# SPDX-License-Identifier: Apache-2.0
"""Whole texts with special tokens, whatever lengths the file names."""

from __future__ import annotations

import json

import pytest

from rlaif_jax.text import encoder_tokenizer
from tests import tiny_encoder

ID = {piece: i for i, piece in enumerate(tiny_encoder.PIECES)}


@pytest.fixture
def folder(tmp_path):
  tiny_encoder.write_tokenizer(tmp_path)
  return tmp_path


def pieces(folder, text, max_length=40):
  tokenizer = encoder_tokenizer.EncoderTokenizer(folder, max_length=max_length)
  return [tiny_encoder.PIECES[i] for i in tokenizer.encode([text])[0]]


def test_texts_are_neither_padded_nor_truncated_as_the_file_says(folder):
  found = pieces(folder, "The compiler keeps a RED zebra")
  words = ["the", "compiler", "keep", "##s", "a", "red", "zebra"]
  assert found == ["[CLS]", *words, "[SEP]"]
  assert pieces(folder, "") == ["[CLS]", "[SEP]"]


def test_the_end_token_of_a_long_text_is_kept(folder):
  assert pieces(folder, "a red zebra", 4) == ["[CLS]", "a", "red", "[SEP]"]


def test_names_of_special_tokens_are_letters(folder):
  found = pieces(folder, "[PAD] red")
  assert "[PAD]" not in found and found[-2:] == ["red", "[SEP]"]


@pytest.mark.parametrize("content", ["", "{}", '{"model": {"type": "No"}}'])
def test_damaged_files_are_named(tmp_path, content):
  (tmp_path / "tokenizer.json").write_text(content)
  with pytest.raises(ValueError, match="tokenizer.json"):
    encoder_tokenizer.EncoderTokenizer(tmp_path, max_length=40)


def test_missing_files_and_missing_special_tokens(tmp_path):
  with pytest.raises(ValueError, match="has no tokenizer.json"):
    encoder_tokenizer.EncoderTokenizer(tmp_path, max_length=40)
  tiny_encoder.write_tokenizer(tmp_path)
  path = tmp_path / "tokenizer.json"
  stored = json.loads(path.read_text())
  path.write_text(json.dumps({**stored, "post_processor": None}))
  with pytest.raises(ValueError, match="tokenizer.json: it adds 0 special"):
    encoder_tokenizer.EncoderTokenizer(tmp_path, max_length=40)


def test_a_length_without_room_for_a_word_is_refused(folder):
  with pytest.raises(ValueError, match="adds 2 special tokens"):
    encoder_tokenizer.EncoderTokenizer(folder, max_length=2)
