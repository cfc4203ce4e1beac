# SPDX-License-Identifier: Apache-2.0
"""BERT's config.json: sizes are read, and other options are refused."""

from __future__ import annotations

import pytest

from rlaif_jax.interop import bert_tables
from rlaif_jax.interop import names
from rlaif_jax.models import bert

VALUES = {
  "model_type": "bert",
  "architectures": ["BertModel"],
  "hidden_act": "gelu",
  "vocab_size": 31,
  "hidden_size": 12,
  "num_hidden_layers": 2,
  "num_attention_heads": 3,
  "intermediate_size": 20,
  "max_position_embeddings": 64,
  "type_vocab_size": 2,
  "layer_norm_eps": 1e-12,
}


def test_sizes_and_rules():
  config = bert_tables.config_from_hf(VALUES)
  assert (config.width, config.mlp_dim, config.max_length) == (12, 20, 64)
  rules = bert_tables.rules(config)
  ours = [rule.ours for rule in rules]
  assert sorted(ours) == sorted(names.flatten(bert.shapes(config)))
  assert len({rule.theirs for rule in rules}) == len(rules) == 5 + 2 * 16


@pytest.mark.parametrize(
  "key, value",
  [
    ("model_type", "roberta"),
    ("architectures", ["BertForMaskedLM"]),
    ("hidden_act", "gelu_new"),
    ("position_embedding_type", "relative_key"),
    ("is_decoder", True),
    ("add_cross_attention", True),
    ("quantization_config", {"bits": 4}),
    ("hidden_size", "12"),
    ("num_attention_heads", 5),
    ("layer_norm_eps", 0.0),
  ],
)
def test_other_options_are_refused(key, value):
  with pytest.raises(ValueError, match=f"{key}|num_heads is 5|norm_epsilon"):
    bert_tables.config_from_hf({**VALUES, key: value})


@pytest.mark.parametrize("key", VALUES)
def test_missing_keys_are_named(key):
  values = {k: v for k, v in VALUES.items() if k != key}
  with pytest.raises(ValueError, match=f"{key} is missing"):
    bert_tables.config_from_hf(values)


def test_unused_tensors():
  assert bert_tables.is_unused("pooler.dense.weight")
  assert bert_tables.is_unused("embeddings.position_ids")
  assert not bert_tables.is_unused("embeddings.LayerNorm.weight")
