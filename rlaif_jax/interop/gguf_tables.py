# SPDX-License-Identifier: Apache-2.0
"""GGUF metadata and tensor names of the decoder families.

llama.cpp stores Llama's rotary channels in pairs and Gemma's norms as 1 +
scale. The rules convert both.
"""

from __future__ import annotations

import dataclasses
from typing import Mapping, TypeVar

import numpy as np

from rlaif_jax.core import parsing
from rlaif_jax.interop import decoder_tables
from rlaif_jax.interop import names
from rlaif_jax.models import decoder
from rlaif_jax.models import architecture_options as options_lib

T = TypeVar("T")
_BLOCK_GGUF = {
  "attention/query/kernel": "attn_q.weight",
  "attention/key/kernel": "attn_k.weight",
  "attention/value/kernel": "attn_v.weight",
  "attention/query/bias": "attn_q.bias",
  "attention/key/bias": "attn_k.bias",
  "attention/value/bias": "attn_v.bias",
  "attention/out/kernel": "attn_output.weight",
  "attention/query_norm/scale": "attn_q_norm.weight",
  "attention/key_norm/scale": "attn_k_norm.weight",
  "attention_norm/scale": "attn_norm.weight",
  "attention_post_norm/scale": "post_attention_norm.weight",
  "mlp_norm/scale": "ffn_norm.weight",
  "mlp_post_norm/scale": "post_ffw_norm.weight",
  "mlp/gate/kernel": "ffn_gate.weight",
  "mlp/up/kernel": "ffn_up.weight",
  "mlp/down/kernel": "ffn_down.weight",
}
_TOP_GGUF = {
  "embedding/table": "token_embd.weight",
  "final_norm/scale": "output_norm.weight",
  "output/kernel": "output.weight",
}


def config_from_gguf(
  metadata: names.JsonObject, shapes: Mapping[str, tuple[int, ...]]
) -> decoder.DecoderConfig:
  """Returns the config of a GGUF file, from its metadata and tensor shapes.

  Raises:
    ValueError: an unsupported architecture, or a missing key.
  """
  name = metadata.get("general.architecture")
  if name not in ("llama", "qwen2", "gemma3"):
    raise ValueError(
      f"general.architecture is {name!r}; supported are llama, qwen2, gemma3"
    )

  def get(key: str, default: T | None = None, kind: type[T] = int) -> T:
    return parsing.field(metadata, f"{name}.{key}", kind, default)

  width, heads = get("embedding_length"), get("attention.head_count")
  if "token_embd.weight" not in shapes:
    raise ValueError("tensor token_embd.weight is missing")
  kind = get("rope.scaling.type", "none", str)
  if kind not in ("none", "linear"):
    raise ValueError(
      f"{name}.rope.scaling.type is {kind!r}; supported are none and linear, "
      "and llama's rope_freqs.weight"
    )
  scaling = None
  if kind == "linear":
    scaling = options_lib.RopeScaling(
      kind="linear", factor=get("rope.scaling.factor", kind=float)
    )
  head_dim = get("attention.key_length", width // max(heads, 1))
  gemma = {}
  if name == "gemma3":
    gemma = dict(
      qk_norm=True,
      post_norms=True,
      norm_offset=True,
      activation="gelu_tanh",
      embedding_scale=True,
      # The 27B scales queries by width / heads, the others by head_dim.
      query_scale=(width / heads if get("block_count") == 62 else head_dim)
      ** -0.5,
      window=get("attention.sliding_window"),
      global_every=6,
      local_rope_theta=float(get("rope.freq_base_swa", 10_000.0, float)),
    )
  return decoder.DecoderConfig(
    vocab_size=shapes["token_embd.weight"][0],
    width=width,
    num_layers=get("block_count"),
    num_heads=heads,
    num_kv_heads=get("attention.head_count_kv", heads),
    head_dim=head_dim,
    mlp_dim=get("feed_forward_length"),
    max_length=get("context_length"),
    norm_epsilon=get("attention.layer_norm_rms_epsilon", kind=float),
    rope_theta=float(
      get("rope.freq_base", 1e6 if name == "gemma3" else 10_000.0, float)
    ),
    tie_embeddings="output.weight" not in shapes,
    architecture_options=options_lib.ArchitectureOptions(
      qkv_bias=name == "qwen2", rope_scaling=scaling, **gemma
    ),
  )


def with_rope_factors(
  config: decoder.DecoderConfig, factors: np.ndarray
) -> decoder.DecoderConfig:
  """Returns the config with the rope scaling of a file's `rope_freqs.weight`.

  Raises:
    ValueError: the factors are not those of Llama 3.1 to 3.3.
  """
  scaling = options_lib.RopeScaling(kind="llama3", factor=float(max(factors)))
  plain, scaled = (
    np.asarray(
      options_lib.rope_frequencies(config.head_dim, config.rope_theta, s)
    )
    for s in (None, scaling)
  )
  if not np.allclose(plain / scaled, factors, rtol=1e-3):
    raise ValueError(
      "the factors in rope_freqs.weight are not Llama 3's (low 1, high 4, "
      f"original length 8192, factor {scaling.factor})"
    )
  options = dataclasses.replace(
    config.architecture_options, rope_scaling=scaling
  )
  return dataclasses.replace(config, architecture_options=options)


def rules(config: decoder.DecoderConfig) -> list[names.Rule]:
  """Returns the rule of every parameter in a GGUF file."""
  pairs = decoder_tables.family_of(config) == "llama"
  table = []
  for rule in decoder_tables.rules(config):
    block, _, rest = rule.ours.partition("/")
    if block.startswith("blocks_"):
      layer = block.removeprefix("blocks_")
      rule = rule._replace(theirs=f"blk.{layer}.{_BLOCK_GGUF[rest]}")
    else:
      rule = rule._replace(theirs=_TOP_GGUF[rule.ours])
    if pairs and rest == "attention/query/kernel":
      rule = rule._replace(rotary_heads=config.num_heads)
    if pairs and rest == "attention/key/kernel":
      rule = rule._replace(rotary_heads=config.num_kv_heads)
    if config.architecture_options.norm_offset and rule.ours.endswith("scale"):
      rule = rule._replace(shift=-1.0)
    table.append(rule)
  return table
