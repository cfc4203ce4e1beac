# SPDX-License-Identifier: Apache-2.0
"""The tokenizer.json of a sentence encoder: whole texts with special tokens.

Tokenizers of language models, which need an end token and segments that join,
are in `text.tokenizers`.
"""

from __future__ import annotations

import json
import os
import pathlib
from typing import Sequence

from rlaif_jax.core import inputs
from rlaif_jax.core import parsing


class EncoderTokenizer:
  """Encodes texts with the start and end tokens that the file adds.

  Attributes:
    vocab_size: number of ids.

  Raises:
    ValueError: the file is missing, is no tokenizer, or adds no token to an
      empty text.
  """

  def __init__(self, directory: str | os.PathLike, *, max_length: int):
    """Opens the file of a directory.

    Args:
      directory: has the tokenizer.json.
      max_length: number of tokens; the ends of longer texts are dropped, and
        their end token is kept.
    """
    path = parsing.inside(directory, "tokenizer.json")
    if not path.is_file():
      raise ValueError(
        f"{pathlib.Path(directory)} has no tokenizer.json; copy that of the "
        "encoder there"
      )
    # The package `tokenizers` raises Exception itself.
    with parsing.naming(path, Exception), parsing.panics():
      self._load(inputs.note(path), max_length)

  def _load(self, path: pathlib.Path, max_length: int) -> None:
    import tokenizers

    stored = parsing.read_json(path)
    if not isinstance(stored.get("model"), dict):
      raise ValueError("it is no tokenizer: it has no 'model'")
    # The file's own lengths serve other uses.
    text = json.dumps({**stored, "truncation": None, "padding": None})
    self._pieces = tokenizers.Tokenizer.from_str(text)
    self._pieces.encode_special_tokens = True
    ids = self._pieces.get_vocab(with_added_tokens=True)
    self.vocab_size = max(ids.values()) + 1
    added = len(self._pieces.encode("").ids)
    if not 1 <= added < max_length:
      raise ValueError(
        f"it adds {added} special tokens to a text of at most {max_length}; a "
        "BERT encoder's adds [CLS] and [SEP] (post_processor)"
      )
    self._pieces.enable_truncation(max_length)

  def encode(self, texts: Sequence[str]) -> list[list[int]]:
    """Returns the ids of each text; names of special tokens are letters."""
    return [e.ids for e in self._pieces.encode_batch(list(texts))]
