# SPDX-License-Identifier: Apache-2.0
"""Public decoder families against transformers, on random small models."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.engine import decode
from rlaif_jax.interop import decoder_tables
from rlaif_jax.interop import names
from rlaif_jax.interop import safetensors_files
from rlaif_jax.interop import sources
from rlaif_jax.models import decoder
from rlaif_jax.models import architecture_options
from tests import testing
from tests.models import small_world_test

VOCAB = 61


def sizes(**changes):
  return {
    "vocab_size": VOCAB,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "attn_implementation": "eager",
    **changes,
  }


LLAMA3 = {
  "rope_type": "llama3",
  "rope_theta": 500.0,
  "factor": 8.0,
  "low_freq_factor": 1.0,
  "high_freq_factor": 4.0,
  "original_max_position_embeddings": 32,
}
YARN = {
  "rope_type": "yarn",
  "rope_theta": 500.0,
  "factor": 4.0,
  "original_max_position_embeddings": 32,
}
# Family, what is odd about the model.
CASES = {
  "llama_grouped_3_to_1_untied": ("Llama", sizes(tie_word_embeddings=False)),
  "llama_wide_heads_tied": (
    "Llama",
    sizes(head_dim=16, tie_word_embeddings=True),
  ),
  "llama3_scaled_rope": (
    "Llama",
    sizes(rope_parameters=LLAMA3, rope_scaling=LLAMA3, head_dim=8),
  ),
  "qwen2_tied": ("Qwen2", sizes(tie_word_embeddings=True)),
  "qwen2_untied_narrow_heads": (
    "Qwen2",
    sizes(tie_word_embeddings=False, hidden_size=48, rms_norm_eps=1e-5),
  ),
  "gemma3_window": (
    "Gemma3",
    sizes(
      num_hidden_layers=4,
      head_dim=8,
      sliding_window=4,
      query_pre_attn_scalar=12,
      layer_types=["sliding_attention"] * 2
      + ["full_attention"]
      + ["sliding_attention"],
    ),
  ),
  "qwen2_window_after_two_layers": (
    "Qwen2",
    sizes(
      num_hidden_layers=3,
      use_sliding_window=True,
      sliding_window=4,
      max_window_layers=2,
    ),
  ),
  "qwen3_wide_heads": (
    "Qwen3",
    sizes(head_dim=10, tie_word_embeddings=True, rms_norm_eps=1e-5),
  ),
  "qwen3_yarn": ("Qwen3", sizes(rope_parameters=YARN, rope_scaling=YARN)),
  "mistral_window": ("Mistral", sizes(sliding_window=5, head_dim=6)),
  "mistral_whole": ("Mistral", sizes(sliding_window=None)),
  "gemma2_caps": (
    "Gemma2",
    sizes(
      num_hidden_layers=3,
      head_dim=10,
      sliding_window=4,
      query_pre_attn_scalar=12,
      attn_logit_softcapping=1.5,
      final_logit_softcapping=4.0,
    ),
  ),
  "olmo2_grouped": ("Olmo2", sizes(tie_word_embeddings=False)),
  "gemma3_softcap": (
    "Gemma3",
    sizes(
      num_hidden_layers=2,
      head_dim=10,
      num_key_value_heads=1,
      sliding_window=64,
      final_logit_softcapping=4.0,
      layer_types=["sliding_attention", "full_attention"],
    ),
  ),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
  """name -> (torch model, its directory, checkpoint, functions, params)."""
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  torch.manual_seed(0)
  cache = {}

  def get(name):
    if name in cache:
      return cache[name]
    family, values = CASES[name]
    config_class = (
      "Gemma3TextConfig" if family == "Gemma3" else f"{family}Config"
    )
    config = getattr(transformers, config_class)(**values)
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
      for parameter in model.parameters():
        # Large enough that every part of the model matters.
        parameter.add_(0.2 * torch.randn_like(parameter))
    directory = tmp_path_factory.mktemp(name)
    model.save_pretrained(directory)
    checkpoint = sources.open_source(str(directory))
    functions = decoder.functions(checkpoint.config)
    wanted = {
      path: leaf.value.shape
      for path, leaf in names.flatten(
        jax.eval_shape(functions.init, jax.random.key(0))
      ).items()
    }
    checkpoint.check(wanted)
    flat = {path: jnp.asarray(array) for path, array in checkpoint.read()}
    cache[name] = (
      model,
      directory,
      checkpoint,
      testing.jitted(functions),
      names.unflatten(flat),
    )
    return cache[name]

  return get


def rows(side: str):
  tokens = np.random.default_rng(0).integers(3, VOCAB, (3, 12))
  valid = np.ones((3, 12), bool)
  for row, pads in enumerate((0, 3, 5)):
    if side == "left":
      valid[row, :pads] = False
    else:
      valid[row, 12 - pads :] = False
  return tokens, valid


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", CASES)
def test_logits_and_log_probs(models, name, side):
  import torch

  model, _, _, functions, params = models(name)
  tokens, valid = rows(side)
  hidden = testing.all_hidden(
    functions, params, jnp.asarray(tokens), jnp.asarray(valid)
  )
  ours = np.asarray(functions.logits(params, hidden))
  positions = np.maximum(np.cumsum(valid, axis=1) - 1, 0)
  with torch.no_grad():
    theirs = model(
      input_ids=torch.tensor(tokens),
      attention_mask=torch.tensor(valid.astype(np.int64)),
      position_ids=torch.tensor(positions),
    ).logits
  assert np.abs(ours[valid]).max() > 1.0  # Not a comparison of nothing.
  np.testing.assert_allclose(ours[valid], theirs.numpy()[valid], atol=1e-4)
  np.testing.assert_allclose(
    np.asarray(jax.nn.log_softmax(ours))[valid],
    torch.log_softmax(theirs, -1).numpy()[valid],
    atol=1e-4,
  )


@pytest.mark.parametrize("name", CASES)
def test_greedy_decoding_is_identical_for_64_tokens(models, name):
  import torch

  model, _, _, functions, params = models(name)
  tokens, valid = rows("left")
  generate = jax.jit(
    lambda p, t, v: decode.generate(
      functions,
      p,
      t,
      v,
      decode.row_keys(jax.random.key(0), jnp.arange(3)),
      config=decode.SamplingConfig(max_tokens=64, temperature=0.0),
      eos_ids=(VOCAB,),
    )
  )
  ours = generate(params, jnp.asarray(tokens), jnp.asarray(valid)).response
  model.generation_config.eos_token_id = None
  theirs = model.generate(
    torch.tensor(tokens),
    attention_mask=torch.tensor(valid.astype(np.int64)),
    max_new_tokens=64,
    do_sample=False,
    pad_token_id=0,
  )
  np.testing.assert_array_equal(ours, theirs[:, 12:].numpy())


@pytest.mark.parametrize("name", CASES)
def test_round_trip_is_bit_equal(models, name, tmp_path):
  model, directory, checkpoint, _, params = models(name)
  sources.write(
    str(tmp_path), "hf", checkpoint.config, names.flatten(params).items()
  )
  written = safetensors_files.SafetensorsSource(tmp_path)
  original = safetensors_files.SafetensorsSource(directory)
  assert set(written.shapes()) == set(original.shapes())
  for tensor in original.shapes():
    np.testing.assert_array_equal(written.read(tensor), original.read(tensor))
  again = sources.open_source(str(tmp_path))
  assert again.config == checkpoint.config
  # And transformers reads what we wrote.
  import torch

  loaded = type(model).from_pretrained(tmp_path, attn_implementation="eager")
  tokens = torch.tensor(rows("left")[0])
  with torch.no_grad():
    torch.testing.assert_close(loaded(tokens).logits, model(tokens).logits)


def hf(**changes):
  values = {"model_type": "llama", **sizes(), **changes}
  return {key: value for key, value in values.items() if value is not None}


@pytest.mark.parametrize(
  "values, words",
  [
    (hf(model_type="mamba"), "'mamba'; supported are llama, mistral, qwen2"),
    (hf(hidden_act="relu"), "hidden_act is 'relu'"),
    (hf(attention_bias=True), "attention_bias"),
    (hf(rope_scaling={"rope_type": "longrope", "factor": 2.0}), "longrope"),
    (
      hf(
        model_type="qwen2",
        use_sliding_window=True,
        sliding_window=4,
        max_window_layers=1,
        layer_types=["sliding_attention", "full_attention"],
      ),
      "layer_types is",
    ),
    (
      hf(model_type="gemma3_text", attn_logit_softcapping=50.0),
      "attn_logit_softcapping",
    ),
    (hf(hidden_size=None), "hidden_size is missing"),
  ],
)
def test_what_we_do_not_compute_is_an_error(values, words):
  with pytest.raises(ValueError, match=words):
    decoder_tables.config_from_hf(values)


def test_older_files_say_the_same():
  """Before transformers 5, rope was said in rope_theta and rope_scaling."""
  old = hf(rope_theta=500.0, rope_scaling={**LLAMA3})
  new = hf(rope_parameters=LLAMA3)
  assert decoder_tables.config_from_hf(old) == decoder_tables.config_from_hf(
    new
  )


@pytest.mark.parametrize(
  "config",
  [
    small_world_test.CONFIG,
    testing.tiny_decoder(
      13,
      architecture_options=architecture_options.ArchitectureOptions(
        post_norms=True
      ),
    ),
  ],
)
def test_other_models_have_no_public_family(config):
  with pytest.raises(ValueError, match="no public family"):
    decoder_tables.config_to_hf(config)


def test_configs_survive_json():
  for family, values in CASES.values():
    kind = {"Gemma3": "gemma3_text"}.get(family, family.lower())
    values = {k: v for k, v in values.items() if k != "attn_implementation"}
    values |= {"model_type": kind, "query_pre_attn_scalar": 12}
    config = decoder_tables.config_from_hf(values)
    written = json.loads(json.dumps(decoder_tables.config_to_hf(config)))
    again = decoder_tables.config_from_hf(written)
    # A scale that is a whole number's root comes back to the last digit.
    for both in zip(
      _numbers(dataclasses.asdict(again)),
      _numbers(dataclasses.asdict(config)),
      strict=True,
    ):
      same = both[0] == both[1]
      assert same or both[0] == pytest.approx(both[1], rel=1e-12)


def _numbers(tree):
  for value in tree.values():
    if isinstance(value, dict):
      yield from _numbers(value)
    else:
      yield value
