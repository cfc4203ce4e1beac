# SPDX-License-Identifier: Apache-2.0
"""Adapters: what they change, what they leave, and that they learn."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.core import batches
from rlaif_jax.models import decoder
from rlaif_jax.models import heads
from rlaif_jax.models import lora
from tests import testing

CONFIG = lora.LoraConfig(
  rank=2, alpha=3.0, targets=(r".*/(query|value|out|down)/kernel",)
)
QUERY = "blocks_0/attention/query/kernel"
OUT = "blocks_1/attention/out/kernel"


@pytest.fixture(scope="module")
def model():
  return testing.jitted(decoder.functions(testing.tiny_decoder(11)))


@pytest.fixture(scope="module")
def params(model):
  return testing.build(model)


def filled(params, config=CONFIG, seed=0):
  """Adapters whose b is not zero."""
  adapters = lora.init(jax.random.key(seed), params, config)
  leaves, tree = jax.tree.flatten(adapters)
  rng = np.random.default_rng(seed)
  leaves = [jnp.asarray(rng.normal(size=x.shape), x.dtype) for x in leaves]
  return jax.tree.unflatten(tree, leaves)


def flat(tree):
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def batch():
  tokens = jnp.asarray(np.random.default_rng(1).integers(0, 11, (3, 9)))
  return batches.TokenBatch(
    tokens=tokens,
    valid=jnp.ones(tokens.shape, bool),
    weights=jnp.ones((3, 8), jnp.float32),
  )


def loss(model, params, batch):
  logits = model.logits(params, model.hidden(params, batch))
  log_probs = jax.nn.log_softmax(logits)
  targets = batch.tokens[:, -batch.weights.shape[1] :]
  return -jnp.take_along_axis(log_probs, targets[..., None], -1).mean()


def test_new_adapters_change_nothing(params):
  adapters = lora.init(jax.random.key(0), params, CONFIG)
  assert len(adapters) == 2 * 4 and all(
    np.any(x["a"]) for x in adapters.values()
  )
  before, after = flat(params), flat(lora.apply(params, adapters, CONFIG))
  assert before.keys() == after.keys()
  for path in before:
    np.testing.assert_array_equal(before[path], after[path], strict=True)


def test_effective_weights_by_hand(params):
  """query [16, 2, 8] has one input axis, out [2, 8, 16] has two."""
  adapters = filled(params)
  after = flat(lora.apply(params, adapters, CONFIG))
  for path, value in flat(params).items():
    expected = np.asarray(value, np.float64)
    if path in adapters:
      a, b = (np.asarray(adapters[path][n], np.float64) for n in ("a", "b"))
      change = np.zeros((a.shape[0], b.shape[1]))
      for i, j in np.ndindex(change.shape):
        change[i, j] = 3.0 / 2 * sum(a[i, k] * b[k, j] for k in range(2))
      expected = expected + change.reshape(value.shape)
    np.testing.assert_allclose(after[path], expected, atol=1e-5)
  assert adapters[QUERY]["a"].shape == (16, 2)
  assert adapters[OUT]["a"].shape == (16, 2)
  assert adapters["blocks_0/mlp/down/kernel"]["a"].shape == (24, 2)


def test_inputs_are_decided_in_one_place():
  assert (
    lora.inputs_of("decoder/layers_0/attention/out/kernel", (2, 8, 16)) == 2
  )
  assert lora.inputs_of("decoder/layers_0/attention/out/kernel", (16, 16)) == 1
  assert lora.inputs_of("blocks_0/attention/query/kernel", (16, 2, 8)) == 1
  assert lora.inputs_of("timeout/kernel", (16, 2, 8)) == 1
  shape = lora.matrix_shape("a/out/kernel", (2, 3, 5))
  assert shape == (6, 5)


def test_start_is_peft_s(params):
  config = lora.LoraConfig(rank=4000)
  a = lora.init(jax.random.key(0), params, config)[QUERY]["a"]
  assert np.abs(a).max() <= 0.25 and np.abs(a).max() > 0.249
  np.testing.assert_allclose(np.std(a), 0.25 / 3**0.5, rtol=0.02)
  other = lora.init(jax.random.key(0), params, config)
  first, second = (other[f"blocks_{n}/attention/query/kernel"] for n in (0, 1))
  assert not np.array_equal(first["a"], second["a"])


def test_merged_is_applied(model, params):
  adapters = filled(params)
  merged = lora.merge(params, adapters, CONFIG)
  wrapped = lora.wrap(model, params, CONFIG)
  np.testing.assert_array_equal(
    model.hidden(merged, batch()), wrapped.hidden(adapters, batch())
  )
  difference = model.hidden(params, batch()) - model.hidden(merged, batch())
  assert np.abs(difference).max() > 0.1


def test_every_function_is_wrapped(model, params):
  adapters = filled(params)
  effective = lora.apply(params, adapters, CONFIG)
  wrapped = lora.wrap(model, params, CONFIG)
  assert wrapped.vocab_size == 11 and wrapped.max_length == model.max_length
  tokens, valid = batch().tokens, batch().valid
  state, cache = wrapped.prefill(adapters, tokens, valid, 2)
  expected, their_cache = model.prefill(effective, tokens, valid, 2)
  np.testing.assert_array_equal(state, expected)
  more = tokens[:, :2], valid[:, :2]
  np.testing.assert_array_equal(
    wrapped.decode_step(adapters, *more, cache)[0],
    model.decode_step(effective, *more, their_cache)[0],
  )
  np.testing.assert_array_equal(
    wrapped.logits(adapters, state), model.logits(effective, expected)
  )
  ready = wrapped.prepare(adapters)
  np.testing.assert_allclose(
    wrapped.logits(ready, state), model.logits(effective, state), atol=1e-5
  )
  np.testing.assert_allclose(
    wrapped.decode_step(ready, *more, cache)[0],
    model.decode_step(effective, *more, their_cache)[0],
    atol=1e-5,
  )
  fresh = wrapped.init(jax.random.key(3))
  assert jax.tree.structure(fresh) == jax.tree.structure(dict(adapters))


def test_a_scalar_model_is_wrapped():
  scorer = testing.jitted(
    heads.functions(testing.tiny_decoder(11, num_layers=1))
  )
  params = testing.build(scorer)
  params["head"]["kernel"] = jnp.ones((16, 1))
  wrapped = lora.wrap(scorer, params, CONFIG)
  adapters = filled(params)
  expected = scorer.last(lora.apply(params, adapters, CONFIG), batch())
  np.testing.assert_array_equal(wrapped.last(adapters, batch()), expected)


def test_only_adapters_learn_and_the_loss_falls(model, params):
  """Plain gradient descent; the frozen bytes stay what they were."""
  before = {path: np.asarray(x).tobytes() for path, x in flat(params).items()}
  wrapped = lora.wrap(model, params, CONFIG)
  adapters = wrapped.init(jax.random.key(0))
  value = jax.jit(
    jax.value_and_grad(lambda adapters: loss(wrapped, adapters, batch()))
  )
  first, grad = value(adapters)
  assert jax.tree.structure(grad) == jax.tree.structure(adapters)
  # The paper's start: b has a gradient, a has none until b is not zero.
  assert all(np.any(x["b"]) and not np.any(x["a"]) for x in grad.values())
  for _ in range(30):
    _, grad = value(adapters)
    adapters = jax.tree.map(lambda x, g: x - 0.5 * g, adapters, grad)
  last, grad = value(adapters)
  assert all(np.any(x["a"]) for x in grad.values())
  assert last < first - 0.3
  after = {path: np.asarray(x).tobytes() for path, x in flat(params).items()}
  assert before == after


def test_an_ensemble_is_a_vmap(params):
  members = [filled(params, seed=seed) for seed in range(3)]
  stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
  stacked_kernels = jax.vmap(
    lambda one: lora.apply(params, one, CONFIG)["blocks_0"]["attention"][
      "query"
    ]["kernel"]
  )(stacked)
  for number, member in enumerate(members):
    alone = flat(lora.apply(params, member, CONFIG))[QUERY]
    np.testing.assert_allclose(stacked_kernels[number], alone, atol=1e-6)


def test_half_precision(params):
  config = lora.LoraConfig(rank=2, dtype="bfloat16")
  adapters = filled(params, config)
  assert {x.dtype for x in jax.tree.leaves(adapters)} == {jnp.dtype("bfloat16")}
  assert flat(lora.apply(params, adapters, config))[QUERY].dtype == jnp.float32
  low = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
  assert flat(lora.apply(low, adapters, config))[QUERY].dtype == jnp.bfloat16


def test_count(params):
  """Per layer: query, value and out 2 (16 + 16), down 2 (24 + 16)."""
  adapters = filled(params)
  assert lora.count(adapters) == 2 * (3 * 2 * 32 + 2 * 40)


@pytest.mark.parametrize(
  "target, message",
  [
    (".*/querry/kernel", "matches no whole path.*attention/query/kernel"),
    ("query", "matches no whole path"),
    ("embedding/table", "embedding/table .* takes no adapter"),
    (".*", "takes no adapter"),
    (".*norm/scale", "takes no adapter"),
  ],
)
def test_targets_that_do_not_fit(params, target, message):
  config = lora.LoraConfig(targets=(r".*/value/kernel", target))
  with pytest.raises(ValueError, match=message):
    lora.init(jax.random.key(0), params, config)


@pytest.mark.parametrize(
  "field, value",
  [
    ("rank", 0),
    ("alpha", 0.0),
    ("targets", ()),
    ("targets", ".*"),
    ("targets", ("(",)),
    ("dtype", "int8"),
  ],
)
def test_config_errors_name_the_field(field, value):
  with pytest.raises(ValueError, match=f"LoraConfig.{field}"):
    lora.LoraConfig(**{field: value})


def test_adapters_of_another_model(params):
  adapters = filled(params)
  with pytest.raises(
    ValueError, match="blocks_0/.*: expected shapes.*, 3.*, 2"
  ):
    lora.apply(params, adapters, lora.LoraConfig(rank=3))
  with pytest.raises(ValueError, match="blocks_9.*no such parameter.*blocks_"):
    lora.apply(params, {"blocks_9/mlp/down/kernel": adapters[QUERY]}, CONFIG)


def test_boxed_parameters_are_refused(model):
  boxed = jax.eval_shape(model.init, jax.random.key(0))
  with pytest.raises(ValueError, match="unbox"):
    lora.init(jax.random.key(0), boxed, CONFIG)
