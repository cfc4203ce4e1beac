# SPDX-License-Identifier: Apache-2.0
"""Adapters in PEFT's files: round trips, the real library, bad files."""

from __future__ import annotations

import json

import flax.linen as nn
import jax
import numpy as np
import pytest
import safetensors.numpy

from rlaif_jax.interop import names
from rlaif_jax.interop import peft_files
from rlaif_jax.models import decoder
from rlaif_jax.models import lora
from tests import testing

CONFIG = lora.LoraConfig(rank=2, alpha=3.0, targets=(r".*/(query|out)/kernel",))
OURS = {
  "attention/query": ("self_attn.q_proj", 1),
  "attention/key": ("self_attn.k_proj", 1),
  "attention/value": ("self_attn.v_proj", 1),
  "attention/out": ("self_attn.o_proj", 2),
  "mlp/gate": ("mlp.gate_proj", -1),
  "mlp/up": ("mlp.up_proj", -1),
  "mlp/down": ("mlp.down_proj", -1),
}
QUERY = "base_model.model.model.layers.0.self_attn.q_proj"


def llama_rules(layers=2):
  """The linear modules of a Llama, and its embedding."""
  rules = [names.Rule("embedding/table", "model.embed_tokens.weight", 0)]
  for layer in range(layers):
    for ours, (theirs, inputs) in OURS.items():
      rules.append(
        names.Rule(
          f"blocks_{layer}/{ours}/kernel",
          f"model.layers.{layer}.{theirs}.weight",
          inputs,
        )
      )
  return rules


@pytest.fixture(scope="module")
def params():
  """Shapes of a tiny decoder's parameters."""
  config = testing.tiny_decoder(11)
  init = decoder.functions(config).init
  return nn.unbox(jax.eval_shape(init, jax.random.key(0)))


def random_adapters(params, config=CONFIG, seed=0):
  rng = np.random.default_rng(seed)
  return {
    path: {
      name: np.asarray(rng.normal(size=x.shape)).astype(x.dtype)
      for name, x in adapter.items()
    }
    for path, adapter in lora.init(jax.random.key(0), params, config).items()
  }


def assert_equal(first, second):
  assert first.keys() == second.keys()
  for path, name in ((path, name) for path in first for name in ("a", "b")):
    np.testing.assert_array_equal(
      first[path][name], second[path][name], strict=True
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_round_trip(tmp_path, params, dtype):
  config = lora.LoraConfig(
    rank=2, alpha=3.5, targets=CONFIG.targets, dtype=dtype
  )
  adapters = random_adapters(params, config)
  peft_files.save(tmp_path, adapters, config, llama_rules(), "base/name")
  loaded, found = peft_files.load(tmp_path, llama_rules())
  assert_equal(loaded, adapters)
  assert (found.rank, found.alpha, found.dtype) == (2, 3.5, dtype)
  assert lora.target_paths(params, found) == sorted(adapters)


def test_layout(tmp_path, params):
  """PEFT's keys, [r, in] and [out, r]; the base model is named."""
  adapters = random_adapters(params)
  peft_files.save(tmp_path, adapters, CONFIG, llama_rules(), "base/name")
  tensors = safetensors.numpy.load_file(tmp_path / "adapter_model.safetensors")
  assert len(tensors) == 2 * 2 * 2
  ours = adapters["blocks_0/attention/query/kernel"]
  for letter, name in (("A", "a"), ("B", "b")):
    found = tensors[f"{QUERY}.lora_{letter}.weight"]
    np.testing.assert_array_equal(found, ours[name].T)
  values = json.loads((tmp_path / "adapter_config.json").read_text())
  assert values["base_model_name_or_path"] == "base/name"
  assert (values["r"], values["lora_alpha"]) == (2, 3)
  assert values["target_modules"] == ["o_proj", "q_proj"]


def test_one_adapted_layer_is_listed_by_its_whole_name(tmp_path, params):
  config = lora.LoraConfig(targets=("blocks_1/attention/query/kernel",))
  adapters = random_adapters(params, config)
  peft_files.save(tmp_path, adapters, config, llama_rules(), "")
  values = json.loads((tmp_path / "adapter_config.json").read_text())
  assert values["target_modules"] == ["model.layers.1.self_attn.q_proj"]


def test_rows_of_rotary_pairs_are_reordered(tmp_path, params):
  """Where a base's rows are in another order, so are those of b."""
  rules = [
    rule._replace(rotary_heads=2) if "query" in rule.ours else rule
    for rule in llama_rules()
  ]
  adapters = random_adapters(params)
  peft_files.save(tmp_path, adapters, CONFIG, rules, "")
  assert_equal(peft_files.load(tmp_path, rules)[0], adapters)
  file = tmp_path / "adapter_model.safetensors"
  found = safetensors.numpy.load_file(file)[f"{QUERY}.lora_B.weight"]
  b = adapters["blocks_0/attention/query/kernel"]["b"]
  # Head 0 has 8 channels: theirs 0, 1, 2, 3 are our 0, 4, 1, 5.
  np.testing.assert_array_equal(found[:4], b.T[[0, 4, 1, 5]])


def edit_config(directory, **changes):
  path = directory / "adapter_config.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_rslora_has_another_scale(tmp_path, params):
  peft_files.save(tmp_path, random_adapters(params), CONFIG, llama_rules(), "")
  edit_config(tmp_path, use_rslora=True)
  config = peft_files.load(tmp_path, llama_rules())[1]
  assert config.scale == pytest.approx(3.0 / 2**0.5)


# ---- The real library.


def tiny_llama():
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  torch.manual_seed(0)
  config = transformers.LlamaConfig(
    vocab_size=11,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=2,
    max_position_embeddings=32,
    tie_word_embeddings=True,
  )
  return transformers.LlamaForCausalLM(config)


def kernels_of(model, params):
  """The linear weights of a Llama as our kernels, copied."""
  state = model.state_dict()
  shapes = {path: x.shape for path, x in names.flatten(params).items()}
  return {
    rule.ours: np.array(
      names.to_ours(state[rule.theirs].numpy(), rule, shapes[rule.ours])
    )
    for rule in llama_rules()
    if rule.inputs
  }


TARGETS = ["q_proj", "v_proj", "o_proj", "up_proj"]


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("use_rslora", [False, True])
def test_an_adapter_of_peft_loads_here(tmp_path, params, use_rslora):
  peft = pytest.importorskip("peft")
  import torch

  model = tiny_llama()
  base = kernels_of(model, params)
  settings = peft.LoraConfig(
    r=4, lora_alpha=6, target_modules=TARGETS, use_rslora=use_rslora
  )
  adapted = peft.get_peft_model(model, settings)
  with torch.no_grad():
    for name, value in adapted.named_parameters():
      if "lora_B" in name:
        value.normal_()
  adapted.save_pretrained(tmp_path)
  merged = kernels_of(adapted.merge_and_unload(), params)

  adapters, config = peft_files.load(tmp_path, llama_rules())
  assert len(adapters) == 2 * 4
  effective = lora.merge(names.unflatten(base), adapters, config)
  for path, kernel in names.flatten(effective).items():
    np.testing.assert_allclose(kernel, merged[path], atol=1e-6)
    assert np.array_equal(kernel, base[path]) == (path not in adapters)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("target", [r".*/(query|out|up)/kernel", "blocks_1/.*"])
def test_an_adapter_of_ours_loads_in_peft(tmp_path, params, target):
  peft = pytest.importorskip("peft")
  import torch

  config = lora.LoraConfig(rank=3, alpha=4.5, targets=(target,))
  base = kernels_of(tiny_llama(), params)
  adapters = random_adapters(names.unflatten(base), config)
  peft_files.save(tmp_path, adapters, config, llama_rules(), "")
  model = peft.PeftModel.from_pretrained(tiny_llama(), tmp_path)
  tokens = torch.arange(10)[None]
  with torch.no_grad():
    theirs = model(tokens).logits

  effective = names.flatten(lora.merge(names.unflatten(base), adapters, config))
  merged = kernels_of(model.merge_and_unload(), params)
  for path, kernel in effective.items():
    np.testing.assert_allclose(kernel, merged[path], atol=1e-6)
  # The same logits from a plain Llama with our effective weights.
  plain = tiny_llama()
  rules = {rule.ours: rule for rule in llama_rules()}
  weights = {
    rules[path].theirs: torch.tensor(
      np.array(names.to_theirs(np.asarray(kernel), rules[path]))
    )
    for path, kernel in effective.items()
  }
  plain.load_state_dict(weights, strict=False)
  with torch.no_grad():
    ours, unadapted = plain(tokens).logits, tiny_llama()(tokens).logits
  np.testing.assert_allclose(ours, theirs, atol=1e-5)
  assert (ours - unadapted).abs().max() > 1e-2


# ---- Files that cannot be trusted.


def edit_tensors(directory, edit):
  path = directory / "adapter_model.safetensors"
  tensors = safetensors.numpy.load_file(path)
  edit(tensors)
  safetensors.numpy.save_file(tensors, path)


A, B = f"{QUERY}.lora_A.weight", f"{QUERY}.lora_B.weight"
TENSORS = {
  f"tensor {B} is missing": lambda t: t.pop(B),
  f"tensor {A} is missing": lambda t: t.pop(A),
  f"tensor {A}: expected a matrix with 2 rows.*3, 16": (
    lambda t: t.update({A: np.ones((3, 16), np.float32)})
  ),
  f"tensor {B}: expected a matrix with 2 columns.*16, 3": (
    lambda t: t.update({B: np.ones((16, 3), np.float32)})
  ),
  "tensor lm_head.weight is unknown": (
    lambda t: t.update({"lm_head.weight": np.ones(2)})
  ),
  "layers.7.* is unknown": lambda t: t.update({A.replace(".0.", ".7."): t[A]}),
  "embed_tokens.* is unknown": lambda t: t.update(
    {"base_model.model.model.embed_tokens.lora_A.weight": t[A]}
  ),
  "found no tensors": lambda t: t.clear(),
}
VALUES = {
  "expected peft_type LORA": {"peft_type": "IA3"},
  "use_dora is True": {"use_dora": True},
  "rank_pattern": {"rank_pattern": {"q_proj": 4}},
  "modules_to_save": {"modules_to_save": ["lm_head"]},
  "bias is 'all'": {"bias": "all"},
  "init_lora_weights is 'pissa'": {"init_lora_weights": "pissa"},
  "r is 0": {"r": 0},
  "r is '2'": {"r": "2"},
  "lora_alpha is missing": {"lora_alpha": None},
  "it must be a finite number": {"lora_alpha": 10**400},
}


@pytest.mark.parametrize("message", [*TENSORS, *VALUES])
def test_bad_files_are_errors_by_name(tmp_path, params, message):
  peft_files.save(tmp_path, random_adapters(params), CONFIG, llama_rules(), "")
  if message in TENSORS:
    edit_tensors(tmp_path, TENSORS[message])
  else:
    edit_config(tmp_path, **VALUES[message])
  with pytest.raises(ValueError, match=message) as caught:
    peft_files.load(tmp_path, llama_rules())
  assert str(tmp_path / "adapter_") in str(caught.value)


def test_missing_and_cut_files(tmp_path, params):
  peft_files.save(tmp_path, random_adapters(params), CONFIG, llama_rules(), "")
  file = tmp_path / "adapter_model.safetensors"
  file.write_bytes(file.read_bytes()[:-4])
  with pytest.raises(ValueError, match="not a complete safetensors file"):
    peft_files.load(tmp_path, llama_rules())
  file.unlink()
  with pytest.raises(ValueError, match="does not exist.*pickle"):
    peft_files.load(tmp_path, llama_rules())
  (tmp_path / "adapter_config.json").write_text("{")
  with pytest.raises(ValueError, match="adapter_config.json: it is no JSON"):
    peft_files.load(tmp_path, llama_rules())


def test_refuses_to_save(tmp_path, params):
  adapters = random_adapters(params)
  with pytest.raises(ValueError, match="out/kernel.*has no linear module"):
    peft_files.save(tmp_path, adapters, CONFIG, llama_rules()[-3:], "")
  with pytest.raises(ValueError, match="out/kernel: expected rank 5"):
    peft_files.save(
      tmp_path, adapters, lora.LoraConfig(rank=5), llama_rules(), ""
    )
  with pytest.raises(ValueError, match="adapters is empty"):
    peft_files.save(tmp_path, {}, CONFIG, llama_rules(), "")
