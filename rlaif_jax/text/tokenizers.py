# SPDX-License-Identifier: Apache-2.0
"""Tokenizers behind one contract: SentencePiece vocabularies, made and read.

Newlines are pieces of their own and nothing is normalised, so texts that meet
at a newline encode the same apart and together.
"""

from __future__ import annotations

import hashlib
import io
import os
import pathlib
from typing import Iterable, Sequence

PAD_ID, BOS_ID, EOS_ID, UNK_ID = 0, 1, 2, 3


def train_sentencepiece(
  texts: Iterable[str],
  *,
  vocab_size: int,
  path: str | os.PathLike,
  extra_symbols: Sequence[str] = (),
) -> None:
  """Learns a byte-pair vocabulary with byte fallback and writes it.

  The same texts give the same file. Digits are split, so "10" is "1", "0".

  Args:
    texts: what to learn from; text is split at newlines.
    vocab_size: pieces in all, special and byte pieces (260) included.
    path: where the model goes; appears whole or not at all.
    extra_symbols: texts that are always one piece.

  Raises:
    ValueError: no texts, or a vocabulary that the texts cannot fill.
  """
  import sentencepiece

  lines = [line for text in texts for line in text.split("\n") if line]
  if not lines:
    raise ValueError("there are no texts to learn a vocabulary from")
  model = io.BytesIO()
  try:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(lines),
      model_writer=model,
      vocab_size=vocab_size,
      model_type="bpe",
      byte_fallback=True,
      split_digits=True,
      add_dummy_prefix=False,
      remove_extra_whitespaces=False,
      normalization_rule_name="identity",
      user_defined_symbols=["\n", *extra_symbols],
      pad_id=PAD_ID,
      bos_id=BOS_ID,
      eos_id=EOS_ID,
      unk_id=UNK_ID,
      # Longer lines would be left out without a word.
      max_sentence_length=max(len(line.encode("utf-8")) for line in lines),
      num_threads=1,
      minloglevel=2,
    )
  except RuntimeError as error:
    raise ValueError(
      f"vocab_size is {vocab_size} and SentencePiece cannot make it from "
      f"{len(lines)} lines: {error}. Give more text or ask for fewer pieces"
    ) from error
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
  partial.write_bytes(model.getvalue())
  os.replace(partial, path)


class SentencePieceTokenizer:
  """A SentencePiece model as a `protocols.Tokenizer`.

  `fingerprint` names the vocabulary by content. `decode(encode(text))` gives
  the text back, save that U+2581, SentencePiece's own sign for a blank, comes
  back as a blank.

  Raises:
    ValueError: no such file, one that is no model, one without an end token
      of its own, or one that does not keep newlines apart.
  """

  def __init__(self, path: str | os.PathLike):
    import sentencepiece

    path = pathlib.Path(path)
    if not path.exists():
      raise ValueError(
        f"there is no vocabulary at {path}; run the prepare job, or point to "
        "the directory that holds tokenizer.model"
      )
    data = path.read_bytes()
    self._pieces = sentencepiece.SentencePieceProcessor()
    try:
      self._pieces.LoadFromSerializedProto(data)
    except RuntimeError as error:
      raise ValueError(f"{path} is no SentencePiece model: {error}") from error
    if self._pieces.eos_id() < 0:
      raise ValueError(
        f"{path} has no end token (eos_id is {self._pieces.eos_id()}); a "
        "response could never end"
      )
    # Where a vocabulary has no pad, any id does: padding is masked.
    self.pad_id = max(self._pieces.pad_id(), 0)
    self.eos_id = self._pieces.eos_id()
    if self.pad_id == self.eos_id:
      raise ValueError(
        f"{path} uses id {self.eos_id} both as padding and as the end; train "
        "it with a pad_id of its own"
      )
    bos = self._pieces.bos_id()
    self.bos_id = bos if bos >= 0 else None
    self.vocab_size = self._pieces.vocab_size()
    self.fingerprint = hashlib.sha256(data).hexdigest()[:16]
    self._check_newlines(path)

  def _check_newlines(self, path: pathlib.Path) -> None:
    apart = self.encode("a\n") + self.encode("b")
    if self.decode(apart) != "a\nb" or self.encode("a\nb") != apart:
      raise ValueError(
        f"{path} loses newlines or joins them with words: 'a\\nb' comes back "
        f"as {self.decode(self.encode('a' + chr(10) + 'b'))!r}. Prompts are "
        "put together at newlines; use a vocabulary with a newline piece"
      )

  def encode(self, text: str) -> list[int]:
    """Ids of a text, without bos and eos."""
    return self._pieces.encode(text)

  def decode(self, ids: Sequence[int]) -> str:
    """Text of ids; special pieces write nothing, broken bytes become U+FFFD."""
    return self._pieces.decode([int(i) for i in ids])


def load_tokenizer(path: str | os.PathLike) -> SentencePieceTokenizer:
  """Opens a tokenizer file."""
  return SentencePieceTokenizer(path)
