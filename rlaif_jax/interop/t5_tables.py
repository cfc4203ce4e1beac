# SPDX-License-Identifier: Apache-2.0
"""T5 1.0, 1.1 and Flan-T5: Hugging Face's configuration and names.

Our names are those of T5X, which needs no table.
"""

from __future__ import annotations

from rlaif_jax.core import parsing
from rlaif_jax.interop import names
from rlaif_jax.models import t5
from rlaif_jax.models import t5_layers

# T5 has no maximum length; its tasks have at most this many tokens.
MAX_LENGTH = 2048
# Our name of an activation -> theirs. Their "gelu" is exact where it is not
# gated; "gated-gelu" stands for gelu_new.
_ACTIVATIONS = {
  "relu": "relu",
  "gelu": "gelu_new",
  "silu": "silu",
  "swish": "swish",
  "tanh": "tanh",
  "sigmoid": "sigmoid",
  "linear": "linear",
}
_FEED_FORWARD = {
  f"{prefix}{theirs}": (bool(prefix), ours)
  for ours, theirs in _ACTIVATIONS.items()
  for prefix in ("", "gated-")
}
_FEED_FORWARD["gated-gelu"] = (True, "gelu")


def config_from_hf(values: names.JsonObject, *, has_head: bool) -> t5.T5Config:
  """Returns the config of a Hugging Face config.json with model_type t5.

  T5 1.0 has tied, scaled logits; later models have an output layer. Files
  store this in `tie_word_embeddings`. Files of transformers 5 store it in
  `scale_decoder_outputs`, and models without an output layer are tied.

  Args:
    values: contents of config.json.
    has_head: whether the weights include `lm_head.weight`.

  Raises:
    ValueError: an unsupported feed-forward layer, or a missing key.
  """
  kind = parsing.field(values, "feed_forward_proj", str, "relu")
  if kind not in _FEED_FORWARD:
    raise ValueError(
      f"feed_forward_proj is {kind!r}; supported are {tuple(_FEED_FORWARD)}"
    )
  gated, activation = _FEED_FORWARD[kind]
  for key, ours in (
    ("decoder_start_token_id", t5.START_ID),
    ("eos_token_id", t5.END_ID),
  ):
    if values.get(key, ours) not in (ours, None):
      raise ValueError(f"{key} is {values[key]}; T5's is {ours}")
  if (
    values.get("layer_norm_epsilon", t5_layers.NORM_EPSILON)
    != t5_layers.NORM_EPSILON
  ):
    raise ValueError(
      f"layer_norm_epsilon is {values['layer_norm_epsilon']}; "
      f"T5's is {t5_layers.NORM_EPSILON}"
    )
  scaled = parsing.field(values, "tie_word_embeddings", bool, True)
  scaled = parsing.field(values, "scale_decoder_outputs", bool, scaled)

  def size(key: str, default: int | None = None) -> int:
    return parsing.field(values, key, int, default)

  return t5.T5Config(
    vocab_size=size("vocab_size"),
    width=size("d_model"),
    num_layers=size("num_layers"),
    num_decoder_layers=size("num_decoder_layers", size("num_layers")),
    num_heads=size("num_heads"),
    head_dim=size("d_kv"),
    mlp_dim=size("d_ff"),
    max_length=MAX_LENGTH,
    relpos_buckets=size("relative_attention_num_buckets", 32),
    relpos_max_distance=size("relative_attention_max_distance", 128),
    tie_embeddings=scaled or not has_head,
    scale_logits=scaled,
    gated=gated,
    activation=activation,
  )


def config_to_hf(config: t5.T5Config) -> names.JsonObject:
  """Returns the config.json of a config; the inverse of `config_from_hf`.

  Raises:
    ValueError: transformers has no such activation.
  """
  kinds = {ours: kind for kind, ours in _FEED_FORWARD.items()}
  name = config.mlp_activation
  if name not in _ACTIVATIONS:
    raise ValueError(
      f"T5Config.activation is {name!r}, which transformers' T5 does not have; "
      f"it has {tuple(_ACTIVATIONS)}. Export with --format=t5x"
    )
  return {
    "model_type": "t5",
    "architectures": ["T5ForConditionalGeneration"],
    "is_encoder_decoder": True,
    "vocab_size": config.vocab_size,
    "d_model": config.width,
    "num_layers": config.num_layers,
    "num_decoder_layers": config.num_decoder_layers,
    "num_heads": config.num_heads,
    "d_kv": config.head_dim,
    "d_ff": config.mlp_dim,
    "relative_attention_num_buckets": config.relpos_buckets,
    "relative_attention_max_distance": config.relpos_max_distance,
    "layer_norm_epsilon": t5_layers.NORM_EPSILON,
    "feed_forward_proj": kinds[config.gated, name],
    "is_gated_act": config.gated,
    "dense_act_fn": _ACTIVATIONS[name],
    "dropout_rate": 0.1,
    "initializer_factor": 1.0,
    "use_cache": True,
    "tie_word_embeddings": config.scale_logits,
    "scale_decoder_outputs": config.scale_logits,
    "decoder_start_token_id": t5.START_ID,
    "pad_token_id": t5.START_ID,
    "eos_token_id": t5.END_ID,
  }


_LETTERS = (("query", "q"), ("key", "k"), ("value", "v"), ("out", "o"))


def _attention(ours: str, theirs: str) -> list[names.Rule]:
  return [
    names.Rule(f"{ours}/{name}/kernel", f"{theirs}.{letter}.weight", 1)
    for name, letter in _LETTERS
  ]


def _norm(ours: str, theirs: str) -> names.Rule:
  return names.Rule(f"{ours}/scale", f"{theirs}.layer_norm.weight")


def _mlp(ours: str, theirs: str, gated: bool) -> list[names.Rule]:
  parts = ("wi_0", "wi_1", "wo") if gated else ("wi", "wo")
  return [
    names.Rule(
      f"{ours}/{part}/kernel", f"{theirs}.DenseReluDense.{part}.weight", 1
    )
    for part in parts
  ]


def rules(config: t5.T5Config) -> list[names.Rule]:
  """Returns the rule of every parameter in Hugging Face's layout."""
  table = [names.Rule("token_embedder/embedding", "shared.weight")]
  for stack in ("encoder", "decoder"):
    table += [
      names.Rule(
        f"{stack}/relpos_bias/rel_embedding",
        f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        -1,
      ),
      names.Rule(
        f"{stack}/{stack}_norm/scale", f"{stack}.final_layer_norm.weight"
      ),
    ]
  for n in range(config.num_layers):
    ours, theirs = f"encoder/layers_{n}", f"encoder.block.{n}.layer"
    table += _attention(f"{ours}/attention", f"{theirs}.0.SelfAttention")
    table.append(_norm(f"{ours}/pre_attention_layer_norm", f"{theirs}.0"))
    table.append(_norm(f"{ours}/pre_mlp_layer_norm", f"{theirs}.1"))
    table += _mlp(f"{ours}/mlp", f"{theirs}.1", config.gated)
  for n in range(config.num_decoder_layers):
    ours, theirs = f"decoder/layers_{n}", f"decoder.block.{n}.layer"
    table += _attention(f"{ours}/self_attention", f"{theirs}.0.SelfAttention")
    table += _attention(
      f"{ours}/encoder_decoder_attention", f"{theirs}.1.EncDecAttention"
    )
    table.append(_norm(f"{ours}/pre_self_attention_layer_norm", f"{theirs}.0"))
    table.append(_norm(f"{ours}/pre_cross_attention_layer_norm", f"{theirs}.1"))
    table.append(_norm(f"{ours}/pre_mlp_layer_norm", f"{theirs}.2"))
    table += _mlp(f"{ours}/mlp", f"{theirs}.2", config.gated)
  if not config.tie_embeddings:
    table.append(names.Rule("decoder/logits_dense/kernel", "lm_head.weight", 1))
  return table
