# SPDX-License-Identifier: Apache-2.0
"""T5 against transformers, on random small models of every kind."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.core import batches
from rlaif_jax.engine import decode
from rlaif_jax.interop import names
from rlaif_jax.interop import safetensors_files
from rlaif_jax.interop import sources
from rlaif_jax.interop import t5_tables
from rlaif_jax.models import t5
from tests import testing

VOCAB = 61
SIZES = {
  "vocab_size": VOCAB,
  "d_model": 24,
  "d_ff": 40,
  "d_kv": 8,
  "num_heads": 3,
  "num_layers": 2,
  "dropout_rate": 0.0,
  "decoder_start_token_id": 0,
}
CASES = {
  "t5_1_0": {"feed_forward_proj": "relu", "tie_word_embeddings": True},
  "t5_1_1": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
  "odd": {
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": True,
    "num_decoder_layers": 3,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 9,
    "d_kv": 10,
  },
  "silu": {"feed_forward_proj": "gated-silu", "tie_word_embeddings": False},
  "gelu_new": {"feed_forward_proj": "gelu_new", "tie_word_embeddings": False},
}
PROMPT, RESPONSE = 14, 6


@pytest.fixture(scope="module")
def models(tmp_path_factory):
  """name -> (torch model, its directory, config, functions, params)."""
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  torch.manual_seed(0)
  cache = {}

  def get(name):
    if name in cache:
      return cache[name]
    config = transformers.T5Config(**SIZES | CASES[name])
    model = transformers.T5ForConditionalGeneration(config).eval()
    with torch.no_grad():
      for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    directory = tmp_path_factory.mktemp(name)
    save(model, name, directory)
    checkpoint = sources.open_source(str(directory))
    functions = t5.functions(checkpoint.config)
    boxed = jax.eval_shape(functions.init, jax.random.key(0))
    checkpoint.check(
      {path: leaf.value.shape for path, leaf in names.flatten(boxed).items()}
    )
    flat = {path: jnp.asarray(array) for path, array in checkpoint.read()}
    params = names.unflatten(flat)
    cache[name] = (
      model,
      directory,
      checkpoint.config,
      testing.jitted(functions),
      params,
    )
    return cache[name]

  return get


def save(model, name, directory):
  """As T5's authors did: transformers 5 ties what was untied in their files."""
  import safetensors.torch
  import torch

  model.config.save_pretrained(directory)
  state = model.state_dict()
  copies = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]
  if CASES[name]["tie_word_embeddings"]:
    copies.append("lm_head.weight")
  else:
    head = torch.randn_like(model.shared.weight) * 0.5
    model.lm_head.weight = torch.nn.Parameter(head)
    state["lm_head.weight"] = head
  safetensors.torch.save_file(
    {k: v.contiguous() for k, v in state.items() if k not in copies},
    directory / safetensors_files.SINGLE,
  )


def rows(side: str, prompt: int = PROMPT):
  generator = np.random.default_rng(0)
  tokens = generator.integers(3, VOCAB, (3, prompt + RESPONSE))
  valid = np.ones(tokens.shape, bool)
  for row, pads in enumerate((0, 3, 5)):
    cut = slice(0, pads) if side == "left" else slice(prompt - pads, prompt)
    valid[row, cut] = False
  return tokens, valid


def encoder_inputs(tokens, valid):
  """Ids as Hugging Face's tokenizer returns them: with an end id."""
  end = np.ones((len(tokens), 1), tokens.dtype)
  prompt, real = tokens[:, :-RESPONSE], valid[:, :-RESPONSE]
  ids = np.concatenate([prompt, end], axis=1)
  mask = np.concatenate([real, end.astype(bool)], axis=1)
  # Theirs counts positions by column, so there must be no padding inside.
  packed = np.zeros_like(ids)
  for row in range(len(ids)):
    kept = ids[row][mask[row]]
    packed[row, : len(kept)] = kept
  return packed, np.arange(ids.shape[1])[None] < mask.sum(1)[:, None]


@pytest.mark.parametrize("prompt", [PROMPT, 150])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", CASES)
def test_logits_and_log_probs(models, name, side, prompt):
  """150 tokens are more than the largest distance with a bucket of its own."""
  import torch

  model, _, _, functions, params = models(name)
  tokens, valid = rows(side, prompt)
  batch = batches.TokenBatch(
    tokens=jnp.asarray(tokens),
    valid=jnp.asarray(valid),
    weights=jnp.ones((3, RESPONSE)),
  )
  ours = functions.logits(params, functions.hidden(params, batch))
  ids, mask = encoder_inputs(tokens, valid)
  start = np.zeros((3, 1), tokens.dtype)
  decoder_ids = np.concatenate([start, tokens[:, prompt:-1]], axis=1)
  with torch.no_grad():
    theirs = model(
      input_ids=torch.tensor(ids),
      attention_mask=torch.tensor(mask.astype(np.int64)),
      decoder_input_ids=torch.tensor(decoder_ids),
    ).logits
  assert np.abs(ours).max() > 1.0
  np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-4)
  np.testing.assert_allclose(
    jax.nn.log_softmax(ours), torch.log_softmax(theirs, -1).numpy(), atol=1e-4
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
  ours = generate(
    params, jnp.asarray(tokens[:, :PROMPT]), jnp.asarray(valid[:, :PROMPT])
  ).response
  ids, mask = encoder_inputs(tokens, valid)
  model.generation_config.eos_token_id = None
  theirs = model.generate(
    torch.tensor(ids),
    attention_mask=torch.tensor(mask.astype(np.int64)),
    max_new_tokens=64,
    do_sample=False,
    use_cache=False,  # Theirs fails where the decoder is deeper.
  )
  np.testing.assert_array_equal(ours, theirs[:, 1:].numpy())


@pytest.mark.parametrize("name", CASES)
def test_round_trip_is_bit_equal(models, name, tmp_path):
  _, directory, config, _, params = models(name)
  sources.write(str(tmp_path), "hf", config, names.flatten(params).items())
  written = safetensors_files.SafetensorsSource(tmp_path)
  original = safetensors_files.SafetensorsSource(directory)
  assert set(original.shapes()) == set(written.shapes())
  for tensor in written.shapes():
    np.testing.assert_array_equal(written.read(tensor), original.read(tensor))
  assert sources.open_source(str(tmp_path)).config == config


def test_every_parameter_has_its_rule_once():
  for name in ("t5_1_0", "t5_1_1"):
    case = CASES[name]
    config = t5_tables.config_from_hf(SIZES | case, has_head=True)
    init = t5.functions(config).init
    params = names.flatten(jax.eval_shape(init, jax.random.key(0)))
    table = t5_tables.rules(config)
    assert sorted(rule.ours for rule in table) == sorted(params)
    assert len({rule.theirs for rule in table}) == len(table)


@pytest.mark.parametrize(
  "change, words",
  [
    ({"feed_forward_proj": "gelu"}, "feed_forward_proj is 'gelu'"),
    ({"decoder_start_token_id": 2}, "decoder_start_token_id is 2"),
    ({"d_model": None}, "d_model is missing"),
    ({"layer_norm_epsilon": 1e-5}, "layer_norm_epsilon is 1e-05"),
  ],
)
def test_what_we_do_not_compute_is_an_error(change, words):
  with pytest.raises(ValueError, match=words):
    t5_tables.config_from_hf(SIZES | CASES["t5_1_1"] | change, has_head=True)


def test_files_of_every_age_say_which_head_there_is():
  new = {"tie_word_embeddings": True, "scale_decoder_outputs": False}
  for values, has_head, tied, scaled in (
    ({}, False, True, True),  # T5 1.0
    ({"tie_word_embeddings": True}, True, True, True),  # with a copy
    ({"tie_word_embeddings": False}, True, False, False),  # T5 1.1
    (new, True, False, False),
    (new, False, True, False),
  ):
    config = t5_tables.config_from_hf(SIZES | values, has_head=has_head)
    assert (config.tie_embeddings, config.scale_logits) == (tied, scaled)
