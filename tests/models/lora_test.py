# SPDX-License-Identifier: Apache-2.0
"""Adapters: what they change, what they leave, and that they learn."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.core import batches
from rlaif_jax.core import compute as compute_lib
from rlaif_jax.models import decoder
from rlaif_jax.models import heads
from rlaif_jax.models import layers
from rlaif_jax.models import lora
from rlaif_jax.ops import quantization
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
  before, after = flat(params), flat(lora.merge(params, adapters, CONFIG))
  assert before.keys() == after.keys()
  for path in before:
    np.testing.assert_array_equal(before[path], after[path], strict=True)


def test_effective_weights_by_hand(params):
  """query [16, 2, 8] has one input axis, out [2, 8, 16] has two."""
  adapters = filled(params)
  after = flat(lora.merge(params, adapters, CONFIG))
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
  inputs = quantization.kernel_inputs
  assert inputs("decoder/layers_0/attention/out/kernel", (2, 8, 16)) == 2
  assert inputs("decoder/layers_0/attention/out/kernel", (16, 16)) == 1
  assert inputs("blocks_0/attention/query/kernel", (16, 2, 8)) == 1
  assert inputs("timeout/kernel", (16, 2, 8)) == 1
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


def test_attached_computes_what_merged_does(model, params):
  """Every function reads adapters; the arrays of the model are the same."""
  adapters = filled(params)
  merged = lora.merge(params, adapters, CONFIG)
  attached = lora.attach(params, adapters, CONFIG)
  ours = dict(jax.tree_util.tree_leaves_with_path(attached))
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    assert ours.pop(path) is leaf
  assert len(ours) == 2 * len(adapters)
  np.testing.assert_allclose(
    model.hidden(attached, batch()), model.hidden(merged, batch()), atol=2e-5
  )
  difference = model.hidden(params, batch()) - model.hidden(merged, batch())
  assert np.abs(difference).max() > 0.1
  tokens, valid = batch().tokens, batch().valid
  more = tokens[:, :2], valid[:, :2]
  steps = []
  for own in (attached, merged, model.prepare(attached)):
    read = merged if own is merged else attached
    state, cache = model.prefill(read, tokens, valid, 2)
    state = model.decode_step(own, *more, cache)[0]
    steps.append(model.logits(own, state))
  np.testing.assert_allclose(steps[0], steps[1], atol=1e-4)
  np.testing.assert_allclose(steps[2], steps[1], atol=1e-4)


def test_zero_adapters_are_the_model_to_the_bit(model, params):
  adapters = lora.init(jax.random.key(0), params, CONFIG)
  attached = lora.attach(params, adapters, CONFIG)
  np.testing.assert_array_equal(
    model.hidden(attached, batch()), model.hidden(params, batch())
  )


@pytest.mark.parametrize("scan_layers", [False, True])
def test_a_scalar_model_and_a_loop_over_layers(scan_layers):
  compute = compute_lib.ComputeConfig(scan_layers=scan_layers)
  scorer = testing.jitted(
    heads.functions(
      testing.tiny_decoder(11), layers.ForwardOptions(compute=compute)
    )
  )
  params = testing.build(scorer)
  params["head"]["kernel"] = jnp.ones((16, 1))
  adapters = filled(params)
  np.testing.assert_allclose(
    scorer.last(lora.attach(params, adapters, CONFIG), batch()),
    scorer.last(lora.merge(params, adapters, CONFIG), batch()),
    rtol=1e-4,
  )


def test_gradients_are_those_of_merged_kernels(model, params):
  adapters = filled(params)

  def gradient(how):
    return jax.grad(lambda own: loss(model, how(params, own, CONFIG), batch()))(
      adapters
    )

  attached, merged = gradient(lora.attach), gradient(lora.merge)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), attached, merged
  )


def test_kernels_get_no_gradient(model, params):
  """No product of the backward pass has the shape of a frozen kernel.

  Adapted or not, a kernel's gradient would be a matrix [in, out].
  """
  # Five rows of nine tokens, so that no activation has these shapes.
  rows = jax.tree.map(lambda x: jnp.concatenate([x, x[:2]]), batch())
  matrices = {
    lora.matrix_shape(path, leaf.shape)
    for path, leaf in flat(params).items()
    if path.endswith("kernel")
  }

  def shapes(how):
    def total(adapters):
      return loss(model, how(params, adapters, CONFIG), rows)

    text = jax.jit(jax.grad(total)).lower(filled(params)).as_text()
    found = re.findall(r"dot_general.*-> tensor<([\dx]+)xf32>", text)
    return {tuple(map(int, shape.split("x"))) for shape in found}

  assert shapes(lora.merge) & matrices
  assert not shapes(lora.attach) & matrices


def test_only_adapters_learn_and_the_loss_falls(model, params):
  """Plain gradient descent; the frozen bytes stay what they were."""
  before = {path: np.asarray(x).tobytes() for path, x in flat(params).items()}
  adapters = lora.init(jax.random.key(0), params, CONFIG)

  @jax.jit
  @jax.value_and_grad
  def value(adapters):
    return loss(model, lora.attach(params, adapters, CONFIG), batch())

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
    lambda one: lora.merge(params, one, CONFIG)["blocks_0"]["attention"][
      "query"
    ]["kernel"]
  )(stacked)
  for number, member in enumerate(members):
    alone = flat(lora.merge(params, member, CONFIG))[QUERY]
    np.testing.assert_allclose(stacked_kernels[number], alone, atol=1e-6)


def test_half_precision(params):
  config = lora.LoraConfig(rank=2, dtype="bfloat16")
  adapters = filled(params, config)
  assert {x.dtype for x in jax.tree.leaves(adapters)} == {jnp.dtype("bfloat16")}
  assert flat(lora.merge(params, adapters, config))[QUERY].dtype == jnp.float32
  low = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
  assert flat(lora.merge(low, adapters, config))[QUERY].dtype == jnp.bfloat16


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


def test_adapters_of_another_model(params):
  adapters = filled(params)
  with pytest.raises(
    ValueError, match="blocks_0/.*: expected shapes.*, 3.*, 2"
  ):
    lora.merge(params, adapters, lora.LoraConfig(rank=3))
  with pytest.raises(ValueError, match="blocks_9.*no such parameter.*blocks_"):
    lora.merge(params, {"blocks_9/mlp/down/kernel": adapters[QUERY]}, CONFIG)


def test_boxed_parameters_are_refused(model):
  boxed = jax.eval_shape(model.init, jax.random.key(0))
  with pytest.raises(ValueError, match="unbox"):
    lora.init(jax.random.key(0), boxed, CONFIG)
