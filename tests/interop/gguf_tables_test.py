# SPDX-License-Identifier: Apache-2.0
"""GGUF's names and axes mean what Hugging Face's do, family by family."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.interop import gguf_tables
from rlaif_jax.interop import names
from rlaif_jax.models import decoder
from rlaif_jax.models import architecture_options
from tests import testing

METADATA = {
  "embedding_length": 24,
  "block_count": 2,
  "attention.head_count": 6,
  "attention.head_count_kv": 2,
  "feed_forward_length": 40,
  "context_length": 64,
  "attention.layer_norm_rms_epsilon": 1e-5,
  "rope.freq_base": 500.0,
}


def metadata(name, **more):
  values = {f"{name}.{key}": value for key, value in METADATA.items()}
  return {"general.architecture": name, **values, **more}


SHAPES = {"token_embd.weight": (61, 24), "output.weight": (61, 24)}


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma3"])
def test_configs(name):
  more = {}
  if name == "gemma3":
    more = {
      "gemma3.attention.sliding_window": 16,
      "gemma3.attention.key_length": 8,
    }
  config = gguf_tables.config_from_gguf(metadata(name, **more), SHAPES)
  assert (config.num_heads, config.num_kv_heads) == (6, 2)
  assert config.head_dim == (8 if name == "gemma3" else 4)
  assert not config.tie_embeddings
  assert config.architecture_options.qkv_bias == (name == "qwen2")
  assert config.architecture_options.post_norms == (name == "gemma3")
  assert config.architecture_options.window == (16 if name == "gemma3" else 0)
  params = testing.build(decoder.functions(config))
  table = gguf_tables.rules(config)
  assert {rule.ours for rule in table} == set(names.flatten(params))
  assert len({rule.theirs for rule in table}) == len(table)


def test_pairs_of_rotary_channels_give_the_same_attention():
  """The result equals that of llama.cpp, whose order of rows differs."""
  config = gguf_tables.config_from_gguf(metadata("llama"), SHAPES)
  rule = next(
    r
    for r in gguf_tables.rules(config)
    if r.ours == "blocks_0/attention/query/kernel"
  )
  assert rule.theirs == "blk.0.attn_q.weight" and rule.rotary_heads == 6
  theirs = np.random.default_rng(0).normal(size=(24, 24))
  x = np.random.default_rng(1).normal(size=24)
  frequency = np.asarray(architecture_options.rope_frequencies(4, 500.0, None))
  # Theirs: rotate channels (2 i, 2 i + 1) of each head.
  pairs = (theirs @ x).reshape(6, 2, 2)
  turned = pairs[..., 0] + 1j * pairs[..., 1]
  turned = turned * np.exp(1j * 7 * frequency)
  from rlaif_jax.models import layers

  ours = names.to_ours(theirs, rule, (24, 6, 4))
  query = jnp.asarray(np.einsum("d,dhc->hc", x, ours), jnp.float32)
  rotated = np.asarray(
    layers.rotary(
      query[None, None],
      layers.rotations(jnp.array([[7]]), jnp.asarray(frequency), 8),
    )
  )[0, 0]
  np.testing.assert_allclose(rotated[:, :2], turned.real, atol=1e-4)
  np.testing.assert_allclose(rotated[:, 2:], turned.imag, atol=1e-4)


def test_gemma_norms_lose_the_one_that_gguf_adds():
  more = {"gemma3.attention.sliding_window": 16}
  config = gguf_tables.config_from_gguf(metadata("gemma3", **more), SHAPES)
  shifts = {r.ours: r.shift for r in gguf_tables.rules(config)}
  assert shifts["final_norm/scale"] == -1.0
  assert shifts["blocks_1/attention/query_norm/scale"] == -1.0
  assert shifts["blocks_1/attention/query/kernel"] == 0.0


def test_llama3_factors_become_the_scaling():
  config = gguf_tables.config_from_gguf(metadata("llama"), SHAPES)
  config = dataclasses.replace(config, head_dim=128, rope_theta=5e5)
  scaling = architecture_options.RopeScaling(kind="llama3", factor=32.0)
  plain = architecture_options.rope_frequencies(128, 5e5, None)
  factors = np.array(
    plain / architecture_options.rope_frequencies(128, 5e5, scaling)
  )
  found = gguf_tables.with_rope_factors(config, factors)
  assert found.architecture_options.rope_scaling.factor == pytest.approx(32.0)
  factors[40] *= 1.1
  with pytest.raises(ValueError, match="rope_freqs.weight"):
    gguf_tables.with_rope_factors(config, factors)


@pytest.mark.parametrize(
  "change, words",
  [
    ({"general.architecture": "rwkv"}, "'rwkv'"),
    ({"llama.block_count": None}, "llama.block_count is missing"),
    ({"llama.rope.scaling.type": "yarn"}, "yarn"),
  ],
)
def test_what_is_not_supported_is_named(change, words):
  values = {**metadata("llama"), **change}
  values = {k: v for k, v in values.items() if v is not None}
  with pytest.raises(ValueError, match=words):
    gguf_tables.config_from_gguf(values, SHAPES)


def test_a_file_without_embeddings_is_refused():
  with pytest.raises(ValueError, match="token_embd.weight is missing"):
    gguf_tables.config_from_gguf(metadata("llama"), {})


def test_a_quantised_model_is_the_model(tmp_path):
  """Written as GGUF in float32 and read back: the same parameters."""
  gguf = pytest.importorskip("gguf")
  from rlaif_jax.interop import gguf_files

  config = gguf_tables.config_from_gguf(metadata("llama"), SHAPES)
  params = names.flatten(testing.build(decoder.functions(config)))
  writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
  rules = {rule.ours: rule for rule in gguf_tables.rules(config)}
  for path, array in params.items():
    theirs = names.to_theirs(np.asarray(array), rules[path])
    writer.add_tensor(rules[path].theirs, np.ascontiguousarray(theirs))
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  source = gguf_files.GGUFSource(tmp_path / "m.gguf")
  wanted = {path: array.shape for path, array in params.items()}
  table = gguf_tables.rules(config)
  names.check(table, wanted, source.shapes(), where="m.gguf")
  for path, array in names.fill(table, wanted, source):
    np.testing.assert_array_equal(array, params[path])
