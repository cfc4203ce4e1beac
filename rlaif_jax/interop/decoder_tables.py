# SPDX-License-Identifier: Apache-2.0
"""Llama 2/3, SmolLM2, Qwen2/2.5 and Gemma 3 text: configurations and names.

Converts between Hugging Face's config.json and `DecoderConfig`. One table of
names serves both directions. An option of config.json that the decoder does
not compute is an error.
"""

from __future__ import annotations

import dataclasses

from rlaif_jax.core import parsing
from rlaif_jax.interop import names
from rlaif_jax.models import decoder
from rlaif_jax.models import architecture_options as options_lib

FAMILIES = ("llama", "qwen2", "gemma3_text")
_CLASSES = {
  "llama": "LlamaForCausalLM",
  "qwen2": "Qwen2ForCausalLM",
  "gemma3_text": "Gemma3ForCausalLM",
}
_GELU = ("gelu_pytorch_tanh", "gelu_new")


def _require(values: names.JsonObject, key: str, *allowed: object) -> None:
  """Raises if a key is present and its value is not supported."""
  if key in values and values[key] not in allowed:
    raise ValueError(
      f"{key} is {values[key]!r}; supported is "
      f"{' or '.join(map(repr, allowed))}"
    )


# ---- Hugging Face configurations.


def config_from_hf(values: names.JsonObject) -> decoder.DecoderConfig:
  """Returns the config of a Hugging Face config.json.

  Raises:
    ValueError: an unsupported family or option, or a missing key.
  """
  family = values.get("model_type")
  if family not in FAMILIES:
    raise ValueError(
      f"model_type is {family!r}; supported are {FAMILIES} and t5"
    )

  def size(key: str, default: int | None = None) -> int:
    return parsing.field(values, key, int, default)

  heads, width = size("num_attention_heads"), size("hidden_size")
  _require(values, "attention_bias", False, None)
  _require(values, "mlp_bias", False, None)
  common = dict(
    vocab_size=size("vocab_size"),
    width=width,
    num_layers=size("num_hidden_layers"),
    num_heads=heads,
    num_kv_heads=size("num_key_value_heads", heads),
    head_dim=size("head_dim", width // max(heads, 1)),
    mlp_dim=size("intermediate_size"),
    max_length=size("max_position_embeddings"),
    norm_epsilon=parsing.field(values, "rms_norm_eps", float, 1e-6),
  )
  if family == "gemma3_text":
    return _gemma_from_hf(values, common)
  _require(values, "hidden_act", "silu")
  _require(values, "use_sliding_window", False)
  rope = _object(values, "rope_parameters") or values
  scaling = _object(values, "rope_scaling") or _object(
    values, "rope_parameters"
  )
  return decoder.DecoderConfig(
    **common,
    rope_theta=float(parsing.field(rope, "rope_theta", float, 10_000.0)),
    tie_embeddings=parsing.field(values, "tie_word_embeddings", bool, False),
    architecture_options=options_lib.ArchitectureOptions(
      qkv_bias=family == "qwen2", rope_scaling=_scaling_from_hf(scaling)
    ),
  )


def _object(values: names.JsonObject, key: str) -> names.JsonObject:
  """Returns an object inside of a configuration; it may be missing."""
  found = values.get(key) or {}
  if not isinstance(found, dict):
    raise ValueError(f"{key} is {found!r:.60}; it must be an object")
  return found


def _scaling_from_hf(
  values: names.JsonObject,
) -> options_lib.RopeScaling | None:
  kind = values.get("rope_type", values.get("type", "default"))
  if kind == "default":
    return None
  if kind == "linear":
    factor = parsing.field(values, "factor", float)
    return options_lib.RopeScaling(kind="linear", factor=factor)
  if kind == "llama3":
    return options_lib.RopeScaling(
      kind="llama3",
      factor=parsing.field(values, "factor", float),
      low_frequency_factor=parsing.field(values, "low_freq_factor", float),
      high_frequency_factor=parsing.field(values, "high_freq_factor", float),
      original_length=parsing.field(
        values, "original_max_position_embeddings", int
      ),
    )
  raise ValueError(
    f"rope scaling of type {kind!r}; supported are default, linear and llama3"
  )


def _gemma_from_hf(values, common) -> decoder.DecoderConfig:
  _require(values, "hidden_activation", *_GELU)
  _require(values, "use_bidirectional_attention", False, None)
  # Gemma 2's option; transformers ignores it in Gemma 3.
  _require(values, "attn_logit_softcapping", None)
  layers = common["num_layers"]
  types = values.get("layer_types")
  every = parsing.field(values, "_sliding_window_pattern", int, 6)
  every = parsing.field(values, "sliding_window_pattern", int, every)
  if types:
    if not isinstance(types, list):
      raise ValueError(f"layer_types is {types!r:.60}; it must be a list")
    full = [n + 1 for n, kind in enumerate(types) if kind == "full_attention"]
    every = full[0] if full else layers + 1
    expected = [n for n in range(1, len(types) + 1) if n % every == 0]
    if full != expected or len(types) != layers:
      raise ValueError(
        f"layer_types has full attention in layers {full} of "
        f"{layers}; supported is every n-th layer"
      )
  rope = _object(values, "rope_parameters")
  if rope:
    whole = _object(rope, "full_attention")
    theta = parsing.field(whole, "rope_theta", float)
    scaling = _scaling_from_hf(whole)
    local = _object(rope, "sliding_attention")
    local = parsing.field(local, "rope_theta", float)
  else:
    theta = parsing.field(values, "rope_theta", float, 1e6)
    scaling = _scaling_from_hf(_object(values, "rope_scaling"))
    local = parsing.field(values, "rope_local_base_freq", float, 10_000.0)
  return decoder.DecoderConfig(
    **common,
    rope_theta=float(theta),
    tie_embeddings=parsing.field(values, "tie_word_embeddings", bool, True),
    architecture_options=options_lib.ArchitectureOptions(
      qk_norm=True,
      post_norms=True,
      norm_offset=True,
      activation="gelu_tanh",
      embedding_scale=True,
      query_scale=parsing.field(values, "query_pre_attn_scalar", float) ** -0.5,
      logit_softcap=parsing.field(
        values, "final_logit_softcapping", float, 0.0
      ),
      window=parsing.field(values, "sliding_window", int),
      global_every=every,
      local_rope_theta=float(local),
      rope_scaling=scaling,
    ),
  )


def family_of(config: decoder.DecoderConfig) -> str:
  """Returns the public family of models that compute what this config does.

  Raises:
    ValueError: there is none.
  """
  if type(config) is not decoder.DecoderConfig:
    raise ValueError(
      f"no public family computes what a {type(config).__name__} model does"
    )
  v = config.architecture_options
  bare = dataclasses.replace(v, rope_scaling=None, qkv_bias=False)
  if bare == options_lib.ArchitectureOptions():
    return "qwen2" if v.qkv_bias else "llama"
  gemma = (v.qk_norm, v.post_norms, v.norm_offset, v.embedding_scale)
  if all(gemma) and v.window and v.global_every:
    return "gemma3_text"
  raise ValueError(
    f"no public family computes what this model does: {v}. Only llama, qwen2 "
    "and gemma3 models can be written in public layouts"
  )


def config_to_hf(config: decoder.DecoderConfig) -> names.JsonObject:
  """Returns the config.json of a config; the inverse of `config_from_hf`."""
  family, v = family_of(config), config.architecture_options
  values = {
    "model_type": family,
    "architectures": [_CLASSES[family]],
    "vocab_size": config.vocab_size,
    "hidden_size": config.width,
    "num_hidden_layers": config.num_layers,
    "num_attention_heads": config.num_heads,
    "num_key_value_heads": config.num_kv_heads,
    "head_dim": config.head_dim,
    "intermediate_size": config.mlp_dim,
    "max_position_embeddings": config.max_length,
    "rms_norm_eps": config.norm_epsilon,
    "rope_theta": config.rope_theta,
    "rope_scaling": _scaling_to_hf(v.rope_scaling),
    "tie_word_embeddings": config.tie_embeddings,
  }
  if family != "gemma3_text":
    return {**values, "hidden_act": "silu"}
  return values | {
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": _whole(
      (v.query_scale or config.head_dim**-0.5) ** -2
    ),
    "final_logit_softcapping": v.logit_softcap or None,
    "sliding_window": v.window,
    "sliding_window_pattern": v.global_every,
    "layer_types": [
      "sliding_attention" if v.is_local(n) else "full_attention"
      for n in range(config.num_layers)
    ],
    "rope_local_base_freq": v.local_rope_theta or config.rope_theta,
  }


def _whole(value: float) -> float | int:
  return round(value) if abs(value - round(value)) < 1e-6 * value else value


def _scaling_to_hf(scaling) -> names.JsonObject | None:
  if scaling is None:
    return None
  values = {"rope_type": scaling.kind, "factor": scaling.factor}
  if scaling.kind == "llama3":
    values |= {
      "low_freq_factor": scaling.low_frequency_factor,
      "high_freq_factor": scaling.high_frequency_factor,
      "original_max_position_embeddings": scaling.original_length,
    }
  return values


# ---- Names.

# Our name in a block, their name in a layer, input axes of the kernel.
_BLOCK_HF = (
  ("attention/query/kernel", "self_attn.q_proj.weight", 1),
  ("attention/key/kernel", "self_attn.k_proj.weight", 1),
  ("attention/value/kernel", "self_attn.v_proj.weight", 1),
  ("attention/query/bias", "self_attn.q_proj.bias", 0),
  ("attention/key/bias", "self_attn.k_proj.bias", 0),
  ("attention/value/bias", "self_attn.v_proj.bias", 0),
  ("attention/out/kernel", "self_attn.o_proj.weight", 2),
  ("attention/query_norm/scale", "self_attn.q_norm.weight", 0),
  ("attention/key_norm/scale", "self_attn.k_norm.weight", 0),
  ("attention_norm/scale", "input_layernorm.weight", 0),
  ("mlp/gate/kernel", "mlp.gate_proj.weight", 1),
  ("mlp/up/kernel", "mlp.up_proj.weight", 1),
  ("mlp/down/kernel", "mlp.down_proj.weight", 1),
)
_NORMS_HF = (("mlp_norm/scale", "post_attention_layernorm.weight", 0),)
_SANDWICH_HF = (
  ("attention_post_norm/scale", "post_attention_layernorm.weight", 0),
  ("mlp_norm/scale", "pre_feedforward_layernorm.weight", 0),
  ("mlp_post_norm/scale", "post_feedforward_layernorm.weight", 0),
)


def rules(config: decoder.DecoderConfig) -> list[names.Rule]:
  """Returns the rule of every parameter in Hugging Face's layout."""
  v = config.architecture_options
  block = _BLOCK_HF + (_SANDWICH_HF if v.post_norms else _NORMS_HF)
  table = [names.Rule("embedding/table", "model.embed_tokens.weight")]
  for layer in range(config.num_layers):
    for ours, theirs, inputs in block:
      if ours.endswith("bias") and not v.qkv_bias:
        continue
      if ours.startswith(("attention/query_norm", "attention/key_norm")):
        if not v.qk_norm:
          continue
      theirs = f"model.layers.{layer}.{theirs}"
      table.append(names.Rule(f"blocks_{layer}/{ours}", theirs, inputs))
  table.append(names.Rule("final_norm/scale", "model.norm.weight"))
  if not config.tie_embeddings:
    table.append(names.Rule("output/kernel", "lm_head.weight", 1))
  return table
