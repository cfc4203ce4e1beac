# SPDX-License-Identifier: Apache-2.0
"""Decoder families of Hugging Face: configurations and names.

Llama 2 and 3, SmolLM2, Mistral, Qwen2, Qwen3 (dense), Gemma 2, Gemma 3 (text)
and OLMo 2. Converts between Hugging Face's config.json and `DecoderConfig`. One
table of names serves both directions. An option of config.json that the decoder
does not compute is an error.
"""

from __future__ import annotations

import dataclasses

from rlaif_jax.core import parsing
from rlaif_jax.interop import names
from rlaif_jax.interop import rope_tables
from rlaif_jax.models import decoder
from rlaif_jax.models import architecture_options as options_lib

_CLASSES = {
  "llama": "LlamaForCausalLM",
  "mistral": "MistralForCausalLM",
  "qwen2": "Qwen2ForCausalLM",
  "qwen3": "Qwen3ForCausalLM",
  "gemma2": "Gemma2ForCausalLM",
  "gemma3_text": "Gemma3ForCausalLM",
  "olmo2": "Olmo2ForCausalLM",
}
FAMILIES = tuple(_CLASSES)
# Departures from Llama that a family always has.
_OPTIONS = {
  "qwen2": {"qkv_bias": True},
  "qwen3": {"qk_norm": True},
  "olmo2": {
    "qk_norm": True,
    "qk_norm_of_all_heads": True,
    "pre_norms": False,
    "post_norms": True,
  },
}
_GEMMA = {
  "post_norms": True,
  "norm_offset": True,
  "activation": "gelu_tanh",
  "embedding_scale": True,
}
_GELU = ("gelu_pytorch_tanh", "gelu_new")


# ---- Hugging Face configurations.


def config_from_hf(values: names.JsonObject) -> decoder.DecoderConfig:
  """Returns the config of a Hugging Face config.json.

  Raises:
    ValueError: an unsupported family or option, or a missing key.
  """
  family = values.get("model_type")
  if family not in FAMILIES:
    raise ValueError(
      f"model_type is {family!r:.60}; supported are {', '.join(FAMILIES)} and "
      "t5"
    )

  def size(key: str, default: int | None = None) -> int:
    return parsing.field(values, key, int, default)

  heads, width = size("num_attention_heads"), size("hidden_size")
  names.require(values, "attention_bias", False, None)
  names.require(values, "mlp_bias", False, None)
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
    return _gemma3_from_hf(values, common)
  options = dict(_OPTIONS.get(family, {}))
  if family == "gemma2":
    names.require(values, "hidden_activation", *_GELU)
    names.require(values, "use_bidirectional_attention", False, None)
    options |= _GEMMA | _gemma_numbers(values)
    options["attention_softcap"] = parsing.field(
      values, "attn_logit_softcapping", float, 0.0
    )
  else:
    names.require(values, "hidden_act", "silu")
  rope = _object(values, "rope_parameters") or values
  scaling = _object(values, "rope_scaling") or _object(
    values, "rope_parameters"
  )
  return decoder.DecoderConfig(
    **common,
    rope_theta=float(parsing.field(rope, "rope_theta", float, 10_000.0)),
    tie_embeddings=parsing.field(
      values, "tie_word_embeddings", bool, family == "gemma2"
    ),
    architecture_options=options_lib.ArchitectureOptions(
      **options,
      **_window_from_hf(family, values, common["num_layers"]),
      rope_scaling=rope_tables.from_hf(scaling, common["max_length"]),
    ),
  )


def _window_from_hf(
  family: str, values: names.JsonObject, layers: int
) -> dict[str, int]:
  """Returns the options of local layers.

  They are all layers of Mistral, every other one of Gemma 2, and those after
  max_window_layers of Qwen.

  Raises:
    ValueError: `layer_types` has another order.
  """
  is_qwen = family.startswith("qwen")
  if family not in ("mistral", "gemma2") and not (
    is_qwen and values.get("use_sliding_window")
  ):
    return {}
  window = parsing.field(values, "sliding_window", int, 0)
  if not window:
    return {}
  options = {"window": window}
  if family == "gemma2":
    options["global_every"] = 2
  elif is_qwen:
    first = parsing.field(values, "max_window_layers", int, layers)
    options["global_first"] = first
  made = options_lib.ArchitectureOptions(**options)
  expected = [_kind(made, n) for n in range(layers)]
  if (values.get("layer_types") or expected) != expected:
    raise ValueError(
      f"layer_types is {values['layer_types']!r:.200}; supported for {family} "
      f"is {expected}"
    )
  return options if "sliding_attention" in expected else {}


def _kind(options: options_lib.ArchitectureOptions, layer: int) -> str:
  local = options.is_local(layer)
  return "sliding_attention" if local else "full_attention"


def _gemma_numbers(values: names.JsonObject) -> dict[str, float]:
  scale = parsing.field(values, "query_pre_attn_scalar", float) ** -0.5
  cap = parsing.field(values, "final_logit_softcapping", float, 0.0)
  return {"query_scale": scale, "logit_softcap": cap}


def _object(values: names.JsonObject, key: str) -> names.JsonObject:
  """Returns an object inside of a configuration; it may be missing."""
  found = values.get(key) or {}
  if not isinstance(found, dict):
    raise ValueError(f"{key} is {found!r:.60}; it must be an object")
  return found


def _gemma3_from_hf(values, common) -> decoder.DecoderConfig:
  names.require(values, "hidden_activation", *_GELU)
  names.require(values, "use_bidirectional_attention", False, None)
  # Gemma 2's option; transformers ignores it in Gemma 3.
  names.require(values, "attn_logit_softcapping", None)
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
    scaling = rope_tables.from_hf(whole, common["max_length"])
    local = _object(rope, "sliding_attention")
    local = parsing.field(local, "rope_theta", float)
  else:
    theta = parsing.field(values, "rope_theta", float, 1e6)
    scaling = rope_tables.from_hf(
      _object(values, "rope_scaling"), common["max_length"]
    )
    local = parsing.field(values, "rope_local_base_freq", float, 10_000.0)
  return decoder.DecoderConfig(
    **common,
    rope_theta=float(theta),
    tie_embeddings=parsing.field(values, "tie_word_embeddings", bool, True),
    architecture_options=options_lib.ArchitectureOptions(
      **_GEMMA,
      **_gemma_numbers(values),
      qk_norm=True,
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
  bare = dataclasses.replace(v, rope_scaling=None, window=0, global_first=0)
  for family in ("llama", "qwen2", "qwen3", "olmo2"):
    options = _OPTIONS.get(family, {})
    if bare == options_lib.ArchitectureOptions(**options):
      if not v.window or family.startswith("qwen"):
        return family
      if family == "llama" and not v.global_first:
        return "mistral"
  gemma = all(getattr(v, name) == value for name, value in _GEMMA.items())
  if gemma and v.pre_norms and not (v.qkv_bias or v.qk_norm_of_all_heads):
    if not v.qk_norm and v.global_every == 2 and not v.local_rope_theta:
      return "gemma2"
    if v.qk_norm and v.window and v.global_every and not v.attention_softcap:
      return "gemma3_text"
  raise ValueError(
    f"no public family computes what this model does: {v}. Models that can be "
    f"written in public layouts are {', '.join(FAMILIES)}"
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
    "rope_scaling": rope_tables.to_hf(v.rope_scaling),
    "tie_word_embeddings": config.tie_embeddings,
  }
  if v.window or family == "mistral":
    values["sliding_window"] = v.window or None
    values["layer_types"] = [_kind(v, n) for n in range(config.num_layers)]
  if not family.startswith("gemma"):
    values["hidden_act"] = "silu"
    if family.startswith("qwen") and v.window:
      values["use_sliding_window"] = True
      values["max_window_layers"] = v.global_first
    return values
  values |= {
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": _whole(
      (v.query_scale or config.head_dim**-0.5) ** -2
    ),
    "final_logit_softcapping": v.logit_softcap or None,
  }
  if family == "gemma2":
    return {**values, "attn_logit_softcapping": v.attention_softcap or None}
  return values | {
    "sliding_window_pattern": v.global_every,
    "rope_local_base_freq": v.local_rope_theta or config.rope_theta,
  }


def _whole(value: float) -> float | int:
  return round(value) if abs(value - round(value)) < 1e-6 * value else value


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
_POST_NORMS_HF = (
  ("attention_post_norm/scale", "post_attention_layernorm.weight", 0),
  ("mlp_post_norm/scale", "post_feedforward_layernorm.weight", 0),
)
_SANDWICH_HF = (
  ("attention_post_norm/scale", "post_attention_layernorm.weight", 0),
  ("mlp_norm/scale", "pre_feedforward_layernorm.weight", 0),
  ("mlp_post_norm/scale", "post_feedforward_layernorm.weight", 0),
)


def rules(config: decoder.DecoderConfig) -> list[names.Rule]:
  """Returns the rule of every parameter in Hugging Face's layout."""
  v = config.architecture_options
  norms = _NORMS_HF
  if v.post_norms:
    norms = _SANDWICH_HF if v.pre_norms else _POST_NORMS_HF
  block = _BLOCK_HF + norms
  table = [names.Rule("embedding/table", "model.embed_tokens.weight")]
  for layer in range(config.num_layers):
    for ours, theirs, inputs in block:
      if ours.endswith("bias") and not v.qkv_bias:
        continue
      if ours == "attention_norm/scale" and not v.pre_norms:
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
