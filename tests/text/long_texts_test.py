# SPDX-License-Identifier: Apache-2.0
"""A cut before encoding changes none of the ids that are kept."""

from __future__ import annotations

import io
import random
import tracemalloc

import pytest
import sentencepiece
import tokenizers as hub
from tokenizers import decoders
from tokenizers import models
from tokenizers import normalizers
from tokenizers import pre_tokenizers
from tokenizers import trainers

from rlaif_jax.text import long_texts

WORDS = (
  "the cat sat on a mat, and 10 saw one-red hat; with ten dogs. é 中".split()
)
CORPUS = [" ".join(random.Random(i).choices(WORDS, k=30)) for i in range(60)]


def sentencepiece_of(kind, **settings):
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(CORPUS),
    model_writer=model,
    model_type=kind,
    minloglevel=2,
    hard_vocab_limit=False,
    **settings,
  )
  pieces = sentencepiece.SentencePieceProcessor()
  pieces.LoadFromSerializedProto(model.getvalue())
  return pieces.encode


def byte_level():
  made = hub.Tokenizer(models.BPE())
  made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  made.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=340,
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  made.train_from_iterator(CORPUS, trainer)
  return lambda text: made.encode(text, add_special_tokens=False).ids


def whole_text():
  """Llama 2's tokenizer.json: no words, blanks become letters."""
  made = hub.Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
  made.normalizer = normalizers.Replace(" ", "▁")
  trainer = trainers.BpeTrainer(
    vocab_size=120, special_tokens=["<unk>"], show_progress=False
  )
  made.train_from_iterator(
    [w for line in CORPUS for w in line.split()], trainer
  )
  return lambda text: made.encode(text, add_special_tokens=False).ids


ENCODERS = {
  "sentencepiece bpe": lambda: sentencepiece_of("bpe", vocab_size=100),
  "sentencepiece with bytes": lambda: sentencepiece_of(
    "bpe", vocab_size=360, byte_fallback=True
  ),
  "sentencepiece unigram": lambda: sentencepiece_of("unigram", vocab_size=80),
  "byte level": byte_level,
  "whole text": whole_text,
}
LETTERS = "".join(random.Random(1).choices("catsonhewdg", k=30_000))
TEXTS = {
  "words": " ".join(random.Random(2).choices(WORDS, k=8000)),
  "lines": "\n".join(random.Random(3).choices(WORDS, k=8000)),
  "one word": LETTERS,
  "one letter": "t" * 30_000,
  "a period": "catsat" * 5000,
  "unknown": "\u2603\U0001f600" * 15_000,
  "blanks": "a" + " " * 29_000 + LETTERS,
  "blanks and newlines": " \n" * 15_000,
  "digits": "0123456789" * 3000,
}


@pytest.fixture(scope="module", params=ENCODERS)
def encode(request):
  return ENCODERS[request.param]()


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("truncate", ["end", "start"])
def test_the_kept_ids_are_those_of_the_whole_text(
  encode, name, truncate, monkeypatch
):
  monkeypatch.setattr(long_texts, "WHOLE", 2000)
  whole = encode(TEXTS[name])
  for count in (1, 7, 60, 100, 30_000):
    found = long_texts.ids(encode, TEXTS[name], count, truncate)
    kept = slice(count) if truncate == "end" else slice(-count, None)
    assert found[kept] == whole[kept]
    assert (len(found) > count) == (len(whole) > count)


def test_short_texts_are_encoded_once_as_they_are():
  calls = []

  def encode(text):
    calls.append(text)
    return list(text)

  text = "x" * long_texts.WHOLE
  assert len(long_texts.ids(encode, text, 5)) == len(text)
  assert long_texts.count_ids(encode, text) == len(text)
  assert calls == [text, text]


def test_the_count_of_a_long_text_is_close(encode, monkeypatch):
  monkeypatch.setattr(long_texts, "WHOLE", 2000)
  whole = len(encode(TEXTS["words"]))
  assert 0 <= long_texts.count_ids(encode, TEXTS["words"]) - whole <= 60


def test_memory_does_not_depend_on_the_length(monkeypatch):
  def encode(text):
    return list(range(len(text)))

  monkeypatch.setattr(long_texts, "WHOLE", 1 << 16)
  text = "ab " * 200_000
  tracemalloc.start()
  assert len(long_texts.ids(encode, text, 100)) < 70_000
  assert long_texts.count_ids(encode, text) == len(text)
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < 6 << 20  # The ids of all of it take 21 MB.
