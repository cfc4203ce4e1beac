# SPDX-License-Identifier: Apache-2.0
"""BERT: its configuration and tensor names in Hugging Face's layout.

An option of config.json that `models.bert` does not compute is an error.
"""

from __future__ import annotations

from rlaif_jax.core import parsing
from rlaif_jax.interop import names
from rlaif_jax.models import bert

# Keys of config.json whose other values would change the result.
_SUPPORTED = {
  "model_type": ("bert",),
  "architectures": (["BertModel"],),
  "hidden_act": ("gelu",),
  "position_embedding_type": ("absolute", None),
  "is_decoder": (False,),
  "add_cross_attention": (False,),
  "quantization_config": (None,),
}
_REQUIRED = ("model_type", "architectures", "hidden_act")
# Their name of a block's layer -> ours, and the number of input axes.
_LAYERS = {
  "attention.self.query": ("query", 1),
  "attention.self.key": ("key", 1),
  "attention.self.value": ("value", 1),
  "attention.output.dense": ("out", 2),
  "intermediate.dense": ("up", 1),
  "output.dense": ("down", 1),
}
_NORMS = {
  "attention.output.LayerNorm": "attention_norm",
  "output.LayerNorm": "mlp_norm",
}
_TABLES = {
  "tokens/table": "word_embeddings",
  "positions": "position_embeddings",
  "types": "token_type_embeddings",
}


def config_from_hf(values: names.JsonObject) -> bert.BertConfig:
  """Returns the config of a Hugging Face config.json.

  Raises:
    ValueError: an unsupported architecture or option, or a missing key.
  """
  for key, allowed in _SUPPORTED.items():
    if key in _REQUIRED and key not in values:
      raise ValueError(f"{key} is missing; it must be {allowed[0]!r}")
    if values.get(key, allowed[0]) not in allowed:
      raise ValueError(
        f"{key} is {values[key]!r:.60}; a sentence encoder must have "
        f"{' or '.join(map(repr, allowed))}"
      )

  def size(key: str) -> int:
    return parsing.field(values, key, int)

  return bert.BertConfig(
    vocab_size=size("vocab_size"),
    width=size("hidden_size"),
    num_layers=size("num_hidden_layers"),
    num_heads=size("num_attention_heads"),
    mlp_dim=size("intermediate_size"),
    max_length=size("max_position_embeddings"),
    num_types=size("type_vocab_size"),
    norm_epsilon=parsing.field(values, "layer_norm_eps", float),
  )


def rules(config: bert.BertConfig) -> list[names.Rule]:
  """Returns the rule of every parameter."""
  found = [
    names.Rule(ours, f"embeddings.{theirs}.weight")
    for ours, theirs in _TABLES.items()
  ]
  norms = {"embeddings.LayerNorm": "norm"}
  for number in range(config.num_layers):
    theirs, ours = f"encoder.layer.{number}", f"blocks_{number}"
    norms |= {f"{theirs}.{a}": f"{ours}/{b}" for a, b in _NORMS.items()}
    for name, (layer, inputs) in _LAYERS.items():
      found += [
        names.Rule(f"{ours}/{layer}/kernel", f"{theirs}.{name}.weight", inputs),
        names.Rule(f"{ours}/{layer}/bias", f"{theirs}.{name}.bias"),
      ]
  for theirs, ours in norms.items():
    found += [
      names.Rule(f"{ours}/scale", f"{theirs}.weight"),
      names.Rule(f"{ours}/bias", f"{theirs}.bias"),
    ]
  return found


def is_unused(name: str) -> bool:
  """Returns whether a tensor has no part in the mean over tokens.

  These are the head over the first token, and the numbers of the positions.
  """
  return name.startswith("pooler.") or name == "embeddings.position_ids"
