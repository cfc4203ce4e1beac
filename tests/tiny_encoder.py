# SPDX-License-Identifier: Apache-2.0
"""A tiny random sentence encoder on disk, in Hugging Face's layout."""

from __future__ import annotations

import json
import pathlib

import numpy as np

from rlaif_jax.interop import bert_tables
from rlaif_jax.interop import names
from rlaif_jax.interop import safetensors_files
from rlaif_jax.models import bert

WORDS = "a cache compiler keep ##s program red zebra the of in runs".split()
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
CONFIG = {
  "model_type": "bert",
  "architectures": ["BertModel"],
  "hidden_act": "gelu",
  "vocab_size": len(PIECES),
  "hidden_size": 12,
  "num_hidden_layers": 2,
  "num_attention_heads": 3,
  "intermediate_size": 20,
  "max_position_embeddings": 40,
  "type_vocab_size": 2,
  "layer_norm_eps": 1e-12,
}


def write_tokenizer(directory: pathlib.Path) -> None:
  """Writes a WordPiece tokenizer.json that truncates and pads to 4 tokens."""
  import tokenizers

  ids = {piece: i for i, piece in enumerate(PIECES)}
  model = tokenizers.models.WordPiece(ids, unk_token="[UNK]")
  tokenizer = tokenizers.Tokenizer(model)
  tokenizer.normalizer = tokenizers.normalizers.BertNormalizer()
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
  tokenizer.post_processor = tokenizers.processors.BertProcessing(
    ("[SEP]", 3), ("[CLS]", 2)
  )
  tokenizer.add_special_tokens(PIECES[:4])
  tokenizer.enable_truncation(4)
  tokenizer.enable_padding(length=4)
  tokenizer.save(str(directory / "tokenizer.json"))


def write(directory: pathlib.Path) -> None:
  """Writes config.json, model.safetensors and tokenizer.json."""
  directory.mkdir(parents=True, exist_ok=True)
  (directory / "config.json").write_text(json.dumps(CONFIG))
  config = bert_tables.config_from_hf(CONFIG)
  flat = names.flatten(bert.shapes(config))
  generator = np.random.default_rng(1)
  tensors = []
  for rule in bert_tables.rules(config):
    array = generator.normal(0, 0.5, flat[rule.ours].shape).astype(np.float32)
    tensors.append((rule.theirs, names.to_theirs(array, rule)))
  tensors.append(("pooler.dense.bias", np.zeros(12, np.float32)))
  tensors.append(("embeddings.position_ids", np.arange(40)[None]))
  safetensors_files.write(directory, tensors)
  write_tokenizer(directory)
