# SPDX-License-Identifier: Apache-2.0
"""Tests of rlaif_jax.text.tokenizers."""

from __future__ import annotations

import io

import pytest
import sentencepiece

from rlaif_jax.text import tokenizers

TEXTS = [
  "The quick brown fox reads 10 documents.\nIt writes 1 summary of each.",
  "A summary is short, a document is long; both are text.",
] * 4

# Blanks, newlines, tabs, digits, bytes outside the vocabulary, symbols.
HARD = (
  "",
  " ",
  "a\nb",
  "\n\n a \n",
  "two  blanks ",
  "tab\tand\r\nreturn",
  "na\u00efve \u2603 \U0001f600",
  "10 1 010",
  "<s></s><pad><0x0A>",
  "\x00",
)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
  path = tmp_path_factory.mktemp("vocabulary") / "tokenizer.model"
  tokenizers.train_sentencepiece(
    TEXTS, vocab_size=300, path=path, extra_symbols=["<judge>"]
  )
  return path


@pytest.fixture(scope="module")
def tokenizer(path):
  return tokenizers.load_tokenizer(path)


def test_same_texts_same_bytes(path, tmp_path):
  again = tmp_path / "deep" / "again.model"
  tokenizers.train_sentencepiece(
    iter(TEXTS), vocab_size=300, path=again, extra_symbols=["<judge>"]
  )
  assert again.read_bytes() == path.read_bytes()
  assert [p.name for p in again.parent.iterdir()] == ["again.model"]


def test_other_texts_other_fingerprint(tokenizer, tmp_path):
  other = tmp_path / "other.model"
  tokenizers.train_sentencepiece(
    [*TEXTS, "something else"], vocab_size=300, path=other
  )
  assert tokenizers.load_tokenizer(other).fingerprint != tokenizer.fingerprint


def test_special_ids(tokenizer):
  assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id) == (0, 1, 2)
  assert tokenizer.vocab_size == 300


@pytest.mark.parametrize("text", [*TEXTS[:2], *HARD])
def test_round_trip(tokenizer, text):
  ids = tokenizer.encode(text)
  assert tokenizer.decode(ids) == text
  assert not {tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id} & set(ids)


@pytest.mark.parametrize("first", [t + "\n" for t in HARD])
@pytest.mark.parametrize("second", HARD)
def test_segments_meet_at_a_newline(tokenizer, first, second):
  apart = tokenizer.encode(first) + tokenizer.encode(second)
  assert tokenizer.encode(first + second) == apart
  before = first.rstrip("\n")
  apart = tokenizer.encode(before) + tokenizer.encode("\n" + second)
  assert tokenizer.encode(before + "\n" + second) == apart


def test_digits_are_pieces_of_their_own(tokenizer):
  ids = tokenizer.encode("10")
  assert ids == tokenizer.encode("1") + tokenizer.encode("0")
  assert len(ids) == 2


def test_a_newline_is_a_piece_and_no_byte(tokenizer):
  # Right after padding, begin, end and unknown.
  assert tokenizer.encode("\n\n") == [4, 4]


def test_extra_symbols_are_one_piece(tokenizer):
  assert len(tokenizer.encode("<judge>")) == 1


def test_special_pieces_write_nothing(tokenizer):
  ids = [tokenizer.bos_id, *tokenizer.encode("a b"), tokenizer.eos_id, 0]
  assert tokenizer.decode(ids) == "a b"


def test_long_lines_are_learned_from(tmp_path):
  # SentencePiece leaves out lines of more than 4,192 bytes by default.
  path = tmp_path / "long.model"
  line = "reinforcement learning " * 300
  tokenizers.train_sentencepiece([line], vocab_size=290, path=path)
  assert len(tokenizers.load_tokenizer(path).encode("reinforcement")) < 5


def test_what_cannot_be_learned_is_an_error(tmp_path):
  with pytest.raises(ValueError, match="no texts"):
    tokenizers.train_sentencepiece(
      ["", "\n"], vocab_size=300, path=tmp_path / "a"
    )
  with pytest.raises(ValueError, match="vocab_size is 100"):
    tokenizers.train_sentencepiece(TEXTS, vocab_size=100, path=tmp_path / "a")


def test_missing_file_and_wrong_file(tmp_path):
  with pytest.raises(ValueError, match="run the prepare job"):
    tokenizers.load_tokenizer(tmp_path / "none.model")
  wrong = tmp_path / "wrong.model"
  wrong.write_bytes(b"no model at all")
  with pytest.raises(ValueError, match="is no SentencePiece model"):
    tokenizers.load_tokenizer(wrong)


@pytest.mark.parametrize(
  "options, message",
  [
    (dict(eos_id=-1), "no end token"),
    # Without byte fallback and a newline piece, a newline is unknown.
    (dict(byte_fallback=False, user_defined_symbols=[]), "loses newlines"),
  ],
)
def test_unusable_vocabularies_are_refused(tmp_path, options, message):
  path = tmp_path / "other.model"
  model = io.BytesIO()
  defaults = dict(byte_fallback=True, user_defined_symbols=["\n"])
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(["some words to learn from"]),
    model_writer=model,
    model_type="bpe",
    hard_vocab_limit=False,
    minloglevel=2,
    **{"vocab_size": 290, **defaults, **options},
  )
  path.write_bytes(model.getvalue())
  with pytest.raises(ValueError, match=message):
    tokenizers.load_tokenizer(path)
