# SPDX-License-Identifier: Apache-2.0
"""Every architecture keeps one contract: shapes, cache, padding, heads."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlaif_jax.core import batches
from rlaif_jax.core import compute as compute_lib
from rlaif_jax.core import masked
from rlaif_jax.engine import decode
from rlaif_jax.engine import prefix_sharing
from rlaif_jax.engine import scoring
from rlaif_jax.models import architectures
from rlaif_jax.models import layouts
from rlaif_jax.models import small_world
from rlaif_jax.models import t5
from rlaif_jax.models import architecture_options
from tests import testing

VOCAB = 13
GEMMA = architecture_options.ArchitectureOptions(
  qk_norm=True,
  post_norms=True,
  norm_offset=True,
  activation="gelu_tanh",
  embedding_scale=True,
  window=3,
  global_every=2,
  local_rope_theta=100.0,
)


def t5_config(**changes):
  sizes = dict(
    vocab_size=VOCAB,
    width=16,
    num_layers=2,
    num_decoder_layers=2,
    num_heads=2,
    head_dim=8,
    mlp_dim=24,
    max_length=64,
  )
  return t5.T5Config(**{**sizes, **changes})


FAMILIES = {
  "llama": testing.tiny_decoder(VOCAB),
  "small_world": small_world.SmallWorldConfig(
    **vars(testing.tiny_decoder(VOCAB)), previous_key_heads=1
  ),
  "qwen2": testing.tiny_decoder(
    VOCAB,
    architecture_options=architecture_options.ArchitectureOptions(
      qkv_bias=True
    ),
    num_kv_heads=1,
  ),
  "gemma3": testing.tiny_decoder(VOCAB, architecture_options=GEMMA),
  "t5_1_1": t5_config(),
  "t5_1_0": t5_config(tie_embeddings=True, scale_logits=True, gated=False),
}


@pytest.fixture(scope="module")
def models():
  cache = {}

  def get(name):
    if name not in cache:
      functions = testing.jitted(architectures.language(FAMILIES[name]))
      cache[name] = functions, testing.build(functions)
    return cache[name]

  return get


def batch(prompt_pads=(0, 2), response=(4, 2)):
  generator = np.random.default_rng(0)
  tokens = generator.integers(3, VOCAB, (2, 10)).astype(np.int32)
  valid = np.ones((2, 10), bool)
  for row in range(2):
    valid[row, : prompt_pads[row]] = False
    valid[row, 6 + response[row] :] = False
  return batches.TokenBatch(
    tokens=jnp.asarray(tokens),
    valid=jnp.asarray(valid),
    weights=jnp.asarray(valid[:, 6:], jnp.float32),
  )


@pytest.mark.parametrize("name", FAMILIES)
def test_cached_reading_equals_the_full_forward(models, name):
  functions, params = models(name)
  both = batch()
  full = functions.hidden(params, both)
  assert full.shape == (2, 4, 16)
  last, cache = functions.prefill(
    params, both.tokens[:, :6], both.valid[:, :6], 4
  )
  states = [last[:, None]]
  for column in range(6, 9):
    hidden, cache = functions.decode_step(
      params,
      both.tokens[:, column : column + 1],
      both.valid[:, column : column + 1],
      cache,
    )
    states.append(hidden)
  cached = jnp.concatenate(states, axis=1)
  # A state is read where its own column is real: that of column j - 1.
  real = np.concatenate(
    [np.ones((2, 1), bool), np.asarray(both.valid[:, 6:9])], axis=1
  )
  np.testing.assert_allclose(cached[real], full[real], atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_prepared_parameters_give_the_same_numbers(models, name):
  functions, params = models(name)
  both = batch()
  tokens, valid = both.tokens, both.valid
  state, cache = functions.prefill(params, tokens[:, :6], valid[:, :6], 2)
  ready = jax.jit(functions.prepare)(params)
  more = tokens[:, 6:8], valid[:, 6:8], cache
  slow, _ = functions.decode_step(params, *more)
  fast, _ = functions.decode_step(ready, *more)
  np.testing.assert_allclose(fast, slow, atol=1e-5)
  for hidden in (state, slow):
    np.testing.assert_allclose(
      functions.logits(ready, hidden),
      functions.logits(params, hidden),
      atol=1e-5,
    )


@pytest.mark.parametrize("name", [n for n in FAMILIES if "t5" not in n])
def test_slots_change_no_sample(models, name):
  """Trap: columns of a slot are in any order, which windows and previous keys
  must not depend on."""
  functions, params = models(name)
  ends = (1, 2, 3, 4, 5)
  tokens = jnp.asarray(np.random.default_rng(1).integers(3, VOCAB, (5, 6)))
  valid = jnp.arange(6)[None] >= jnp.array([0, 3, 1, 5, 2])[:, None]

  def draw(slots):
    config = decode.SamplingConfig(max_tokens=6, temperature=0.9, slots=slots)
    keys = decode.row_keys(jax.random.key(0), jnp.arange(5), 2)
    return jax.jit(
      lambda params: decode.generate(
        functions, params, tokens, valid, keys, config=config, eos_ids=ends
      )
    )(params)

  expected, found = draw(0), draw(2)
  assert len(set(np.asarray(expected.mask).sum(axis=-1).reshape(-1))) > 2
  np.testing.assert_array_equal(found.response, expected.response)
  np.testing.assert_allclose(found.log_probs, expected.log_probs, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_padding_changes_nothing(models, name):
  functions, params = models(name)
  both = batch()
  garbage = both.replace(
    tokens=jnp.where(both.valid, both.tokens, (both.tokens + 3) % VOCAB)
  )
  a = functions.hidden(params, both) * both.weights[..., None]
  b = functions.hidden(params, garbage) * both.weights[..., None]
  np.testing.assert_array_equal(a, b)
  # The second row alone, with nothing to the left of it.
  alone = jax.tree.map(lambda x: x[1:], both)
  alone = alone.replace(tokens=alone.tokens[:, 2:], valid=alone.valid[:, 2:])
  c = functions.hidden(params, alone) * alone.weights[..., None]
  np.testing.assert_allclose(a[1:], c, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_sampled_log_probs_are_those_of_the_full_forward(models, name):
  functions, params = models(name)
  both = batch()
  samples = jax.jit(
    lambda p: decode.generate(
      functions,
      p,
      both.tokens[:, :6],
      both.valid[:, :6],
      decode.row_keys(jax.random.key(0), jnp.arange(2)),
      config=decode.SamplingConfig(max_tokens=5, temperature=0.9),
      eos_ids=(1,),
    )
  )(params)
  prompts = batches.PromptBatch(
    prompt=both.tokens[:, :6],
    prompt_valid=both.valid[:, :6],
    context=both.tokens[:, :6],
    context_valid=both.valid[:, :6],
    row=jnp.arange(2),
  )
  again = scoring.response_log_probs(
    functions,
    params,
    scoring.join(prompts, samples.response, samples.mask),
    temperature=0.9,
  )
  np.testing.assert_allclose(
    samples.log_probs, again * samples.mask, atol=2e-5, rtol=1e-5
  )


@pytest.mark.parametrize("name", FAMILIES)
def test_scalars_are_read_at_the_last_real_token(name):
  functions = testing.jitted(architectures.scalar(FAMILIES[name]))
  params = testing.build(functions)
  both = batch()
  assert not np.any(functions.last(params, both))  # The head starts at zero.
  params["head"]["kernel"] = jnp.ones_like(params["head"]["kernel"])
  states = functions.states(params, both)
  assert states.shape == (2, 5)
  np.testing.assert_allclose(
    functions.last(params, both), [states[0, 4], states[1, 2]], rtol=1e-6
  )


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_learns(models, name):
  functions, params = models(name)
  both = batch()
  tx = optax.adam(3e-2)

  def loss(p):
    log_probs = scoring.response_log_probs(functions, p, both)
    return masked.weighted_sum(-log_probs, both.weights).mean()

  @jax.jit
  def step(p, state):
    value, gradient = jax.value_and_grad(loss)(p)
    updates, state = tx.update(gradient, state)
    return optax.apply_updates(p, updates), state, value

  state, values = tx.init(params), []
  for _ in range(25):
    params, state, value = step(params, state)
    values.append(float(value))
  assert values[-1] < 0.3 * values[0], values


def test_names():
  assert architectures.name_of(FAMILIES["llama"]) == "decoder"
  assert architectures.name_of(FAMILIES["small_world"]) == "small_world"
  assert architectures.name_of(FAMILIES["t5_1_1"]) == "t5"

  @dataclasses.dataclass
  class Other:
    pass

  with pytest.raises(ValueError, match="Other is not a model config"):
    architectures.name_of(Other())


def gradient_of(config, remat, scan_layers=False):
  """jit of the gradient of a loss of (params, batch)."""
  compute = compute_lib.ComputeConfig(remat=remat, scan_layers=scan_layers)
  options = architectures.ForwardOptions(compute=compute)
  functions = architectures.language(config, options)

  def loss(params, both):
    log_probs = scoring.response_log_probs(functions, params, both)
    return masked.weighted_sum(-log_probs, both.weights).mean()

  return jax.jit(jax.grad(loss))


@pytest.mark.parametrize("name", ["gemma3", "t5_1_1"])
def test_what_is_computed_again_changes_no_gradient(models, name):
  params, both = models(name)[1], batch()
  found, products = {}, {}
  for remat in ("none", "dots", "full"):
    step = gradient_of(FAMILIES[name], remat)
    found[remat] = jax.tree.leaves(step(params, both))
    lowered = step.lower(params, both).as_text()
    products[remat] = lowered.count("stablehlo.dot_general")
  for remat in ("full", "dots"):
    for a, b in zip(found[remat], found["none"], strict=True):
      np.testing.assert_allclose(a, b, atol=1e-6, rtol=1e-4)
  # Attention's products are made again by both, the layers' by one.
  assert products["none"] < products["dots"] < products["full"]


@pytest.mark.parametrize(
  "name, remat",
  [
    ("small_world", "none"),
    ("gemma3", "full"),
    ("qwen2", "dots"),
    ("t5_1_1", "full"),
    ("t5_1_0", "none"),
  ],
)
def test_layers_as_a_loop_are_the_same_layers(name, remat):
  # Three: where kinds of layers come in twos, one is left over.
  deep = dataclasses.replace(FAMILIES[name], num_layers=3)
  params = testing.build(architectures.language(deep))
  both = batch()
  expected = gradient_of(deep, remat)(params, both)
  looped = gradient_of(deep, remat, True)(params, both)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6, rtol=1e-4),
    looped,
    expected,
  )


@pytest.mark.parametrize("name", ["gemma3", "t5_1_1"])
def test_a_loop_over_layers_does_not_grow_with_depth(name):
  def products(num_layers):
    deep = dataclasses.replace(FAMILIES[name], num_layers=num_layers)
    params = testing.build(architectures.language(deep))
    step = gradient_of(deep, "none", True)
    return step.lower(params, batch()).as_text().count("stablehlo.dot_general")

  assert products(4) == products(8)


def test_scalars_of_layers_as_a_loop_are_the_same():
  for name in ("gemma3", "t5_1_1"):
    plain = architectures.scalar(FAMILIES[name])
    compute = compute_lib.ComputeConfig(scan_layers=True)
    options = architectures.ForwardOptions(compute=compute)
    looped = architectures.scalar(FAMILIES[name], options)
    params = testing.build(plain)
    # The head is zero at first, which would agree with anything.
    params["head"]["kernel"] = jnp.ones_like(params["head"]["kernel"])
    np.testing.assert_allclose(
      looped.states(params, batch()), plain.states(params, batch()), atol=1e-5
    )


@pytest.mark.parametrize("scan_layers", [False, True])
@pytest.mark.parametrize("name", ["small_world", "gemma3", "t5_1_1"])
def test_chunked_attention_gives_the_same_numbers(
  monkeypatch, name, scan_layers
):
  """Texts, groups, prefill and a shared prefix, eight queries at a time."""
  monkeypatch.setattr(layouts, "BLOCK_SCORES", 0)
  both = batch()
  generator = np.random.default_rng(2)
  group = batches.GroupBatch(
    prompt=both.tokens,
    prompt_valid=both.valid,
    response=jnp.asarray(generator.integers(3, VOCAB, (2, 3, 4))),
    response_valid=jnp.asarray(generator.random((2, 3, 4)) < 0.8),
  )

  def numbers(attention):
    compute = compute_lib.ComputeConfig(
      attention=attention, scan_layers=scan_layers
    )
    options = architectures.ForwardOptions(compute=compute)
    functions = testing.jitted(architectures.language(FAMILIES[name], options))
    params = testing.build(functions)
    found = [functions.hidden(params, texts) for texts in (both, group)]
    found.append(functions.prefill(params, both.tokens, both.valid, 4)[0])
    choices = ((3,), (4, 5))
    found.append(
      scoring.option_log_probs(
        functions, params, both.tokens, both.valid, choices
      )
    )
    if functions.is_causal:
      prefix = prefix_sharing.prefill_prefix(
        functions, params, both.tokens[:1], both.valid[:1]
      )
      shared = prefix_sharing.SharedPrompts(
        group_tokens=both.tokens,
        group_valid=both.valid,
        group_ids=jnp.array([0, 1, 1]),
        suffix=jnp.asarray(generator.integers(3, VOCAB, (3, 12))),
        suffix_valid=jnp.ones((3, 12), bool),
      )
      found.append(
        scoring.shared_option_log_probs(
          functions, params, prefix, shared, choices
        )
      )
    return found

  state = generator.bit_generator.state
  plain = numbers("plain")
  generator.bit_generator.state = state
  for found, expected in zip(numbers("chunked"), plain, strict=True):
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert np.std(expected) > 0.01
