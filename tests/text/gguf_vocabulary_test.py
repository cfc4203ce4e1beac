# SPDX-License-Identifier: Apache-2.0
"""Tests of rlaif_jax.text.gguf_vocabulary."""

from __future__ import annotations

import io
import json

import pytest
import sentencepiece
import tokenizers as hub
from sentencepiece import sentencepiece_model_pb2
from tokenizers import decoders
from tokenizers import models
from tokenizers import pre_tokenizers
from tokenizers import trainers

from rlaif_jax.text import chat
from rlaif_jax.text import gguf_vocabulary
from rlaif_jax.text import tokenizers

KEY = "tokenizer.ggml."
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEXTS = [
  "The quick brown fox reads 10 documents.\nIt's 1 summary, isn't it?",
  "HE'LL say 12345 times:\n\n  hello   world!!\n",
] * 4
HARD = [
  *TEXTS[:2],
  "",
  " ",
  "\n\n a \n",
  "tab\tand\r\nreturn ",
  "na\u00efve \u2603 \U0001f600 x\u00b2 \u0663",
  "<|im_start|>user\na1b22<|im_end|>",
  "<tool>x</tool>",
  "\x00<0x0A>",
]

# Cuts of words worked out by hand from each family's rule.
CUTS = {
  "gpt-2": ["It", "'s", " 123456", " A", "'", "LL", "!!", "\n\n", "\n", "x"],
  "smollm": [
    *["It", "'s", " ", *"123456", " A", "'", "LL", "!!", "\n\n", "\n", "x"]
  ],
  "qwen2": ["It", "'s", " ", *"123456", " A", "'LL", "!!\n\n\n", "x"],
  "llama-bpe": ["It", "'s", " ", "123", "456", " A", "'LL", "!!\n\n\n", "x"],
  "default": [
    *["It", "'", "s", " ", "123", "456", " A", "'", "LL", "!!"],
    *["\n\n", "\n", "x"],
  ],
}


def make_bpe(cutter):
  made = hub.Tokenizer(models.BPE())
  made.pre_tokenizer = cutter
  made.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=320,
    special_tokens=SPECIAL,
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  made.train_from_iterator(TEXTS, trainer)
  made.add_tokens(["<tool>"])
  return made


def metadata_of(made, pre):
  """Metadata of a GGUF file with a byte-level vocabulary."""
  ids = made.get_vocab(with_added_tokens=True)
  tokens = sorted(ids, key=ids.get)
  merges = json.loads(made.to_str())["model"]["merges"]
  kinds = {**dict.fromkeys(SPECIAL, 3), "<tool>": 4}
  return {
    f"{KEY}model": "gpt2",
    f"{KEY}pre": pre,
    f"{KEY}tokens": tokens,
    f"{KEY}token_type": [kinds.get(token, 1) for token in tokens],
    f"{KEY}merges": [" ".join(merge) for merge in merges],
    f"{KEY}bos_token_id": 1,
    f"{KEY}eos_token_id": 2,
    f"{KEY}padding_token_id": 2,
    f"{KEY}add_bos_token": False,
  }


@pytest.fixture(scope="module")
def smol():
  return make_bpe(
    pre_tokenizers.Sequence(
      [
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
      ]
    )
  )


@pytest.fixture()
def metadata(smol):
  return metadata_of(smol, "smollm")


@pytest.mark.parametrize("text", HARD)
def test_same_ids_as_the_vocabulary_it_was_made_of(
  smol, metadata, tmp_path, text
):
  gguf_vocabulary.write_tokenizer(metadata, tmp_path)
  made = tokenizers.load_tokenizer(tmp_path)
  assert made.encode(text) == smol.encode(text).ids
  assert made.decode(made.encode_plain(text)) == text


def test_gpt2_same_ids_as_the_library_cuts_it(tmp_path):
  twin = make_bpe(pre_tokenizers.ByteLevel(add_prefix_space=False))
  gguf_vocabulary.write_tokenizer(metadata_of(twin, "gpt-2"), tmp_path)
  made = tokenizers.load_tokenizer(tmp_path)
  for text in HARD:
    assert made.encode(text) == twin.encode(text).ids


@pytest.mark.parametrize("pre", CUTS)
def test_cuts(metadata, tmp_path, pre):
  metadata[f"{KEY}pre"] = pre
  gguf_vocabulary.write_tokenizer(metadata, tmp_path)
  made = hub.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
  text = "".join(CUTS[pre])
  assert text == "It's 123456 A'LL!!\n\n\nx"
  words = made.pre_tokenizer.pre_tokenize_str(text)
  assert [text[start:end] for _, (start, end) in words] == CUTS[pre]


def test_qwen2_composes_letters_and_llama_takes_whole_words(metadata, tmp_path):
  metadata[f"{KEY}tokens"][-2] = "zq"
  metadata[f"{KEY}merges"] = []
  ids = {}
  for pre in ("qwen2", "llama-bpe"):
    gguf_vocabulary.write_tokenizer(
      {**metadata, f"{KEY}pre": pre}, tmp_path / pre
    )
    made = tokenizers.load_tokenizer(tmp_path / pre)
    ids[pre] = made.encode("zq")
    composed = made.encode("e\u0301") == made.encode("\u00e9")
    assert composed == (pre == "qwen2")
  assert [len(ids[pre]) for pre in ("qwen2", "llama-bpe")] == [2, 1]


def test_config_files(metadata, tmp_path):
  template = "{{ bos_token }}\u00e9\n{{ messages[0].content }}"
  metadata["tokenizer.chat_template"] = template
  metadata[f"{KEY}eot_token_id"] = 0
  gguf_vocabulary.write_tokenizer(metadata, tmp_path)
  made = tokenizers.load_tokenizer(tmp_path)
  assert (made.eos_id, made.eos_ids) == (2, (2, 0))
  assert (made.bos_id, made.bos_text) == (None, "<|im_start|>")
  assert made.pad_id not in made.eos_ids
  assert chat.load(tmp_path) == template
  # User-defined tokens are text, control tokens are not.
  assert made.decode(made.encode("<tool>")) == "<tool>"
  assert made.decode(made.encode("<|im_start|>")) == ""


@pytest.mark.parametrize(
  "pre, asked, bos",
  [
    ("smollm", None, None),
    ("smollm", True, 1),
    ("llama-bpe", None, 1),
    ("llama-bpe", False, None),
  ],
)
def test_begin_token(metadata, tmp_path, pre, asked, bos):
  changed = {f"{KEY}pre": pre, f"{KEY}add_bos_token": asked}
  gguf_vocabulary.write_tokenizer({**metadata, **changed}, tmp_path)
  assert tokenizers.load_tokenizer(tmp_path).bos_id == bos
  made = hub.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
  assert (made.encode("a").ids[0] == 1) == (bos == 1)


# --- SentencePiece ---


@pytest.fixture(scope="module")
def pieces():
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(" ".join(TEXTS).split("\n")),
    model_writer=model,
    model_type="bpe",
    vocab_size=330,
    byte_fallback=True,
    normalization_rule_name="identity",
    remove_extra_whitespaces=False,
    control_symbols=["<turn>"],
    user_defined_symbols=["<tool>"],
    minloglevel=2,
  )
  return sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())


@pytest.fixture()
def llama(pieces):
  return {
    f"{KEY}model": "llama",
    f"{KEY}tokens": [piece.piece for piece in pieces.pieces],
    f"{KEY}scores": [piece.score for piece in pieces.pieces],
    f"{KEY}token_type": [piece.type for piece in pieces.pieces],
    f"{KEY}unknown_token_id": 0,
    f"{KEY}bos_token_id": 1,
    f"{KEY}eos_token_id": 2,
  }


@pytest.mark.parametrize("prefix", [True, False, None])
def test_same_pieces_as_the_model_it_was_made_of(
  llama, pieces, tmp_path, prefix
):
  if prefix is not None:
    llama[f"{KEY}add_space_prefix"] = prefix
  gguf_vocabulary.write_tokenizer(llama, tmp_path)
  made = tokenizers.load_tokenizer(tmp_path)
  data = (tmp_path / "tokenizer.model").read_bytes()
  stored = sentencepiece_model_pb2.ModelProto.FromString(data).pieces
  assert [piece.score for piece in stored] == llama[f"{KEY}scores"]
  twin = sentencepiece_model_pb2.ModelProto()
  twin.CopyFrom(pieces)
  twin.normalizer_spec.add_dummy_prefix = prefix is not False
  twin = sentencepiece.SentencePieceProcessor(
    model_proto=twin.SerializeToString()
  )
  for text in HARD:
    assert made.encode_plain(text) == twin.encode(text)
    assert made.decode(made.encode_plain(text)) == twin.decode(
      twin.encode(text)
    )
  assert (made.bos_id, made.eos_ids, made.vocab_size) == (1, (2,), 330)


def test_turn_tokens_are_encoded_by_templates_only(llama, tmp_path):
  turn = llama[f"{KEY}tokens"].index("<turn>")
  llama[f"{KEY}eot_token_id"] = turn
  llama[f"{KEY}add_bos_token"] = False
  gguf_vocabulary.write_tokenizer(llama, tmp_path)
  made = tokenizers.load_tokenizer(tmp_path)
  assert turn in made.encode("a<turn>")
  assert turn not in made.encode_plain("a<turn>")
  assert (made.eos_ids, made.bos_id) == ((2, turn), None)
  assert made.pad_id not in made.eos_ids


# --- what is refused ---


@pytest.mark.parametrize(
  "key, value, message",
  [
    ("model", "t5", "model is 't5'; supported are gpt2, llama"),
    ("model", None, "model: expected str, found nothing"),
    ("pre", "viking", "pre is 'viking'; supported are gpt-2, smollm, qwen2"),
    ("pre", None, "pre: expected str, found nothing"),
    ("tokens", [], "tokens: expected tokens, found an empty"),
    ("tokens", "abc", "tokens: expected a list, found str"),
    ("tokens", ["a", "b", "a"], r"tokens\[2\].*found 'a' as at 0"),
    ("tokens", ["a", ""], r"tokens\[1\].*found ''"),
    ("tokens", ["a", 3], r"tokens\[1\]: expected str, found 3"),
    ("token_type", [1], "token_type: expected 321 entries.*found 1"),
    ("token_type", [9] * 321, r"token_type\[0\]: expected 1 to 6, found 9"),
    ("merges", None, "merges: expected a list, found nothing"),
    ("merges", ["ab"], r"merges\[0\]: expected two tokens.*found 'ab'"),
    ("merges", ["a b c"], r"merges\[0\]: expected two tokens"),
    ("merges", [" a"], r"merges\[0\]: expected two tokens"),
    ("merges", ["a \u2603"], r"merges\[0\].*vocabulary, found '\u2603'"),
    ("merges", ["Q Q"], r"merges\[0\].*vocabulary, found 'QQ' in 'Q Q'"),
    ("eos_token_id", None, "eos_token_id: expected the id.*found nothing"),
    ("eos_token_id", 321, "eos_token_id: expected 0 to 320, found 321"),
    ("padding_token_id", -1, "padding_token_id: expected 0 to 320, found -1"),
    ("add_bos_token", "no", "add_bos_token: expected bool, found 'no'"),
  ],
)
def test_metadata_are_checked(metadata, tmp_path, key, value, message):
  metadata[KEY + key] = value
  with pytest.raises(ValueError, match=message):
    gguf_vocabulary.write_tokenizer(metadata, tmp_path / "new")
  assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
  "key, value, message",
  [
    ("scores", [0.0], "scores: expected 330 entries.*found 1"),
    ("scores", ["a"] * 330, r"scores\[0\]: expected float, found 'a'"),
    ("token_type", [1] * 330, r"one unknown token.*found \[\]"),
    ("unknown_token_id", 5, r"one unknown token.*\(5\), found \[0\]"),
    ("token_type", [2] + [6] * 329, "all 256 byte tokens.*found 329"),
    ("add_space_prefix", 1, "add_space_prefix: expected bool, found 1"),
  ],
)
def test_sentencepiece_metadata_are_checked(
  llama, tmp_path, key, value, message
):
  llama[KEY + key] = value
  with pytest.raises(ValueError, match=message):
    gguf_vocabulary.write_tokenizer(llama, tmp_path / "new")


def test_a_template_is_text_and_two_tokenizers_do_not_mix(
  metadata, llama, tmp_path
):
  with pytest.raises(ValueError, match="chat_template: expected str, found 3"):
    gguf_vocabulary.write_tokenizer(
      {**metadata, "tokenizer.chat_template": 3}, tmp_path
    )
  gguf_vocabulary.write_tokenizer(llama, tmp_path)
  with pytest.raises(ValueError, match="tokenizer.model is another tokenizer"):
    gguf_vocabulary.write_tokenizer(metadata, tmp_path)
