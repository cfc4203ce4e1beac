# SPDX-License-Identifier: Apache-2.0
"""Tests of rlaif_jax.text.tokenizers."""

from __future__ import annotations

import io
import json

import pytest
import sentencepiece
import tokenizers as hub
from tokenizers import decoders
from tokenizers import models
from tokenizers import pre_tokenizers
from tokenizers import processors
from tokenizers import trainers

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
  assert tokenizer.segmentable and tokenizer.keeps_newlines
  assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id) == (0, 1, 2)
  assert tokenizer.eos_ids == (2,)
  assert (tokenizer.bos_text, tokenizer.eos_text) == ("<s>", "</s>")
  assert tokenizer.vocab_size == 300


@pytest.mark.parametrize("text", [*TEXTS[:2], *HARD])
def test_round_trip(tokenizer, text):
  ids = tokenizer.encode(text)
  assert tokenizer.decode(ids) == text
  assert not {tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id} & set(ids)


@pytest.mark.parametrize("first", [t + "\n" for t in HARD])
@pytest.mark.parametrize("second", HARD)
def test_segments_are_joined_at_newlines(tokenizer, first, second):
  separate = tokenizer.encode(first) + tokenizer.encode(second)
  assert tokenizer.encode(first + second) == separate
  before = first.rstrip("\n")
  separate = tokenizer.encode(before) + tokenizer.encode("\n" + second)
  assert tokenizer.encode(before + "\n" + second) == separate


def test_digits_are_pieces_of_their_own(tokenizer):
  ids = tokenizer.encode("10")
  assert ids == tokenizer.encode("1") + tokenizer.encode("0")
  assert len(ids) == 2


def test_a_newline_is_a_piece_and_no_byte(tokenizer):
  # Right after padding, begin, end and unknown.
  assert tokenizer.encode("\n\n") == [4, 4]


def test_extra_symbols_are_one_piece(tokenizer):
  assert len(tokenizer.encode("<judge>")) == 1


def test_special_pieces_decode_to_nothing(tokenizer):
  ids = [tokenizer.bos_id, *tokenizer.encode("a b"), tokenizer.eos_id, 0]
  assert tokenizer.decode(ids) == "a b"


def test_long_lines_are_used_in_training(tmp_path):
  # SentencePiece leaves out lines of more than 4,192 bytes by default.
  path = tmp_path / "long.model"
  line = "reinforcement learning " * 300
  tokenizers.train_sentencepiece([line], vocab_size=290, path=path)
  assert len(tokenizers.load_tokenizer(path).encode("reinforcement")) < 5


def test_texts_that_give_no_vocabulary_are_an_error(tmp_path):
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


def train_public(path, **options):
  """A SentencePiece vocabulary as others make them."""
  model = io.BytesIO()
  defaults = dict(byte_fallback=True, vocab_size=290, model_type="bpe")
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(["some words to learn from"]),
    model_writer=model,
    hard_vocab_limit=False,
    minloglevel=2,
    **{**defaults, **options},
  )
  path.write_bytes(model.getvalue())


IDENTITY = dict(normalization_rule_name="identity")
AS_IT_IS = dict(remove_extra_whitespaces=False, **IDENTITY)


@pytest.mark.parametrize(
  "options, segmentable, keeps_newlines",
  [
    # Newlines are written in bytes, and nothing is put in front.
    (dict(add_dummy_prefix=False, **AS_IT_IS), True, True),
    # A blank before every text, as in Llama 2.
    (AS_IT_IS, False, True),
    # Newlines become blanks, as in T5, and so does every beginning.
    (dict(byte_fallback=False, vocab_size=30), True, False),
  ],
)
def test_what_public_vocabularies_do_with_newlines(
  tmp_path, options, segmentable, keeps_newlines
):
  train_public(tmp_path / "other.model", **options)
  made = tokenizers.load_tokenizer(tmp_path / "other.model")
  assert made.segmentable == segmentable
  assert made.keeps_newlines == keeps_newlines


def test_padding_is_no_end_token(tmp_path):
  train_public(tmp_path / "a.model", eos_id=-1)
  with pytest.raises(ValueError, match="no end token"):
    tokenizers.load_tokenizer(tmp_path / "a.model")
  # The end is id 0, where a vocabulary without padding would have it.
  train_public(tmp_path / "a.model", eos_id=0, bos_id=1, unk_id=2)
  made = tokenizers.load_tokenizer(tmp_path / "a.model")
  assert (made.eos_id, made.bos_id, made.pad_id) == (0, 1, 2)


def test_config_files_of_a_sentencepiece_model(tmp_path):
  train_public(tmp_path / "tokenizer.model", user_defined_symbols=["<turn>"])
  write(tmp_path, "generation_config", eos_token_id=[2, 3])
  loose = tokenizers.load_tokenizer(tmp_path)
  assert loose.eos_ids == (2, 3)
  assert loose.encode_plain("<turn>") == loose.encode("<turn>")
  write(tmp_path, "tokenizer_config", additional_special_tokens=["<turn>"])
  made = tokenizers.load_tokenizer(tmp_path)
  assert 3 in made.encode("a<turn>") and 3 not in made.encode_plain("a<turn>")
  assert made.decode(made.encode_plain("a<turn>b")) == "a<turn>b"
  assert made.decode(made.encode("a<turn>b")) == "ab"
  write(tmp_path, "generation_config", eos_token_id=9999)
  with pytest.raises(ValueError, match="generation_config.*9999.*290 ids"):
    tokenizers.load_tokenizer(tmp_path)


SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def write(directory, name, **content):
  (directory / f"{name}.json").write_text(json.dumps(content))


def byte_level(*, special=SPECIAL, begin=None):
  """A small byte-level vocabulary, with single digits."""
  made = hub.Tokenizer(models.BPE())
  made.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.Digits(individual_digits=True),
      pre_tokenizers.ByteLevel(add_prefix_space=False),
    ]
  )
  made.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=320,
    special_tokens=special,
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  made.train_from_iterator([*TEXTS, "<|" * 50], trainer)
  if begin:
    made.post_processor = processors.TemplateProcessing(
      single=f"{begin} $A", special_tokens=[(begin, made.token_to_id(begin))]
    )
  return made


@pytest.fixture()
def directory(tmp_path):
  byte_level().save(str(tmp_path / "tokenizer.json"))
  end = SPECIAL[2]
  write(tmp_path, "tokenizer_config", eos_token=end, pad_token=end)
  return tmp_path


@pytest.mark.parametrize("text", [*TEXTS[:2], *HARD, "<|im_end|> a"])
def test_json_round_trip_of_plain_text(directory, text):
  made = tokenizers.load_tokenizer(directory)
  ids = made.encode_plain(text)
  assert made.decode(ids) == text
  assert not {0, 1, 2} & set(ids)
  if "<|" not in text:
    assert made.encode(text) == ids


def test_json_same_ids_as_transformers(directory):
  transformers = pytest.importorskip("transformers")
  made = tokenizers.load_tokenizer(directory)
  twin = transformers.PreTrainedTokenizerFast(
    tokenizer_file=str(directory / "tokenizer.json")
  )
  marked = "<|im_start|>a<|im_end|>"
  assert made.encode(marked) == [1, *made.encode("a"), 2]
  assert made.decode(made.encode(marked)) == "a"
  # Its letters are put together as those of any other text.
  assert made.encode_plain(marked)[:1] == made.encode("<|")
  for text in [*TEXTS, *HARD, marked]:
    assert made.encode(text) == twin.encode(text, add_special_tokens=False)


def test_a_word_that_is_a_special_token_is_split(tmp_path):
  vocabulary = byte_level(special=["stop"]).get_vocab()
  made = hub.Tokenizer(models.BPE(vocabulary, [], ignore_merges=True))
  made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  made.decoder = decoders.ByteLevel()
  made.add_special_tokens(["stop"])
  made.save(str(tmp_path / "tokenizer.json"))
  write(tmp_path, "generation_config", eos_token_id=made.token_to_id("stop"))
  made = tokenizers.load_tokenizer(tmp_path)
  # The library alone would give the word as the token.
  assert made.eos_id not in made.encode_plain("stop, stop")
  assert made.decode(made.encode_plain("stop, stop")) == "stop, stop"


def test_letters_outside_the_vocabulary_stay_unknown(tmp_path):
  made = hub.Tokenizer(models.BPE({"<unk>": 0, "a": 1}, [], unk_token="<unk>"))
  made.add_special_tokens(["<unk>", "</s>"])
  made.save(str(tmp_path / "tokenizer.json"))
  write(tmp_path, "tokenizer_config", eos_token="</s>")
  assert tokenizers.load_tokenizer(tmp_path).encode_plain("a?") == [1, 0]


def test_json_ends(directory):
  made = tokenizers.load_tokenizer(directory)
  # The named one first; padding is the end in the file and not here.
  assert (made.eos_id, made.eos_ids) == (2, (2, 0))
  assert made.pad_id == 1
  write(directory, "generation_config", eos_token_id=[5, 0])
  made = tokenizers.load_tokenizer(directory)
  assert (made.eos_id, made.eos_ids) == (5, (5, 0, 2))
  assert (made.eos_text, made.decode([5])) == ("<|im_end|>", "")
  write(directory, "tokenizer_config", pad_token="<|im_start|>")
  assert tokenizers.load_tokenizer(directory).pad_id == 1


def test_an_ordinary_piece_is_no_end_token(tmp_path):
  made = byte_level(special=["<|im_end|>"])
  made.add_tokens(["</s>"])
  made.save(str(tmp_path / "tokenizer.json"))
  assert tokenizers.load_tokenizer(tmp_path).eos_ids == (0,)


def test_json_bos_is_detected(directory):
  name = "<|endoftext|>"
  assert tokenizers.load_tokenizer(directory).bos_id is None
  config = dict(bos_token={"content": name}, eos_token="<|im_end|>")
  write(directory, "tokenizer_config", **config)
  made = tokenizers.load_tokenizer(directory)
  assert (made.bos_id, made.bos_text) == (None, name)
  write(directory, "tokenizer_config", **config, add_bos_token=True)
  assert tokenizers.load_tokenizer(directory).bos_id == 0
  byte_level(begin=name).save(str(directory / "tokenizer.json"))
  write(directory, "tokenizer_config")
  assert tokenizers.load_tokenizer(directory).bos_id == 0
  write(directory, "tokenizer_config", **config, add_bos_token=False)
  assert tokenizers.load_tokenizer(directory).bos_id is None


def test_numbers_with_gaps(directory):
  stored = json.loads((directory / "tokenizer.json").read_text())
  last = max(stored["model"]["vocab"], key=stored["model"]["vocab"].get)
  stored["model"]["vocab"][last] = 500
  (directory / "tokenizer.json").write_text(json.dumps(stored))
  assert tokenizers.load_tokenizer(directory).vocab_size == 501


def test_json_truncation_and_padding_are_disabled(directory):
  made = byte_level()
  made.enable_truncation(2)
  made.enable_padding(length=50)
  made.save(str(directory / "tokenizer.json"))
  assert len(tokenizers.load_tokenizer(directory).encode("12345")) == 5


def test_json_segments(directory):
  made = tokenizers.load_tokenizer(directory)
  assert made.segmentable and made.keeps_newlines
  joined = byte_level()
  joined.add_tokens(["\n\n"])
  joined.save(str(directory / "tokenizer.json"))
  assert not tokenizers.load_tokenizer(directory).segmentable


@pytest.mark.parametrize(
  "name, content, message",
  [
    ("generation_config", dict(eos_token_id=[2, 999]), "999.*of 320 ids"),
    ("tokenizer_config", dict(eos_token="<none>"), "'<none>' has id None"),
    ("special_tokens_map", dict(bos_token="<none>"), "map.json.*'<none>'"),
    (
      "tokenizer_config",
      dict(added_tokens_decoder={"1": {"content": "<|im_end|>"}}),
      "'<|im_end|>' has id 1, where .*'<|im_start|>'",
    ),
    ("tokenizer_config", dict(add_bos_token=True), "bos_token is missing"),
  ],
)
def test_special_ids_are_checked(directory, name, content, message):
  write(directory, name, **content)
  with pytest.raises(ValueError, match=message.replace("|", r"\|")):
    tokenizers.load_tokenizer(directory)


def test_json_without_an_end_and_no_json(tmp_path):
  byte_level(special=[]).save(str(tmp_path / "tokenizer.json"))
  with pytest.raises(ValueError, match="no end token"):
    tokenizers.load_tokenizer(tmp_path)
  for content, message in (
    ("{", "is no JSON"),
    ("[]", "expected an object"),
    ("{}", "has no 'model'"),
  ):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match=message):
      tokenizers.load_tokenizer(tmp_path)


def test_files_of_a_tokenizer(tmp_path, path, directory):
  for name in ("weights.bin", "tokenizer.model"):
    (directory / name).write_bytes(b"")
  files = tokenizers.tokenizer_files(directory)
  names = ("tokenizer.json", "tokenizer_config.json")
  assert files == {name: (directory / name).read_bytes() for name in names}
  assert list(tokenizers.tokenizer_files(path.parent)) == ["tokenizer.model"]
  for opened in (directory, directory / "tokenizer.json"):
    made = tokenizers.load_tokenizer(opened)
    assert isinstance(made, tokenizers.JsonTokenizer)
  empty = tmp_path / "empty"
  empty.mkdir()
  with pytest.raises(ValueError, match="tokenizer.json, .*, spiece.model"):
    tokenizers.load_tokenizer(empty)
