# SPDX-License-Identifier: Apache-2.0
"""DPO by hand, at its tabular optimum, and without what fills a batch."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.core import batches
from rlaif_jax.core import protocols
from rlaif_jax.data import packing
from rlaif_jax.dpo import alternatives
from rlaif_jax.dpo import model
from rlaif_jax.engine import scoring
from rlaif_jax.models import decoder
from tests import testing

VOCAB = 9
FUNCTIONS = decoder.functions(testing.tiny_decoder(VOCAB))
LOG_PROBS = jax.jit(functools.partial(scoring.pair_log_probs, FUNCTIONS))
APART = jax.jit(functools.partial(scoring.response_log_probs, FUNCTIONS))


def side(seed, rows=3):
  generator = np.random.default_rng(seed)
  tokens = generator.integers(0, VOCAB, (rows, 6))
  tokens[:, :3] = np.arange(3) + 2
  valid = np.ones((rows, 6), bool)
  valid[1, :2] = valid[2, 4:] = valid[0, 5:] = False
  return batches.TokenBatch(
    tokens=tokens, valid=valid, weights=valid[:, 3:].astype(np.float32)
  )


def pairs(label=(1.0, 0.3, 0.6), weight=(1.0, 1.0, 1.0)):
  return testing.pair_batch(
    first=side(0),
    second=side(1),
    label=np.asarray(label, np.float32),
    weight=np.asarray(weight, np.float32),
  )


def referenced(pairs, reference):
  known = jnp.stack(LOG_PROBS(reference, pairs), axis=-1)
  return pairs.replace(ref_log_probs=known)


@pytest.fixture(scope="module")
def params():
  return testing.build(FUNCTIONS), testing.build(FUNCTIONS, seed=1)


def by_hand(policy, reference, batch):
  """h of each pair, one whole forward per candidate."""
  ratios = []
  for text in (batch.first, batch.second):
    ours, theirs = (APART(p, text) for p in (policy, reference))
    ratios.append(np.sum((ours - theirs) * text.weights, axis=1))
  return ratios[0] - ratios[1]


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("kind", ["logistic", "squared"])
def test_loss_by_hand(params, kind, smoothing):
  policy, reference = params
  config = model.DPOConfig(beta=0.5, loss=kind, label_smoothing=smoothing)
  batch = pairs()
  h = by_hand(policy, reference, batch)
  p = batch.label * (1 - smoothing) + (1 - batch.label) * smoothing
  if kind == "logistic":
    chance = 1 / (1 + np.exp(-0.5 * h))
    expected = -p * np.log(chance) - (1 - p) * np.log(1 - chance)
  else:
    expected = p * (h - 1.0) ** 2 + (1 - p) * (h + 1.0) ** 2
  loss, metrics = jax.jit(model.make_loss(FUNCTIONS, config))(
    policy, referenced(batch, reference), None
  )
  np.testing.assert_allclose(loss.mean(), expected.mean(), rtol=1e-4)
  correct = (h > 0) == (batch.label > 0.5)
  np.testing.assert_allclose(metrics["accuracy"].mean(), correct.mean())
  signs = np.where(batch.label > 0.5, 1, -1)
  np.testing.assert_allclose(
    metrics["reward_margin"].mean(), np.mean(0.5 * h * signs), rtol=1e-4
  )


@pytest.mark.parametrize("kind", ["logistic", "squared"])
def test_log_probs_averaged_over_tokens(params, kind):
  """TRL's IPO: the log-probs of a response are means and not sums."""
  policy, reference = params
  config = model.DPOConfig(beta=0.5, loss=kind, average_log_probs=True)
  batch = pairs()
  means = []
  for text in (batch.first, batch.second):
    ours, theirs = (APART(p, text) for p in (policy, reference))
    total = np.sum((ours - theirs) * text.weights, axis=1)
    means.append(total / np.sum(text.weights, axis=1))
  h = means[0] - means[1]
  expected = model.margin_loss(jnp.asarray(h), batch.label, config)
  plain = referenced(batch, reference)
  loss = jax.jit(model.make_loss(FUNCTIONS, config))
  found, _ = loss(policy, plain, None)
  np.testing.assert_allclose(found.mean(), expected.mean(), rtol=1e-4)
  plain = jax.tree.map(np.asarray, plain)
  shape = packing.row_shape(packing.lengths_of(plain), round_to=8)
  rows = packing.pack_pairs(plain, shape, multiple=2)
  packed, _ = loss(policy, rows, None)
  np.testing.assert_allclose(packed.mean(), expected.mean(), rtol=1e-4)


@pytest.mark.parametrize("kind", ["kto", "rrhf"])
def test_other_losses_are_chosen_by_name_and_read_packed_pairs(params, kind):
  policy, reference = params
  config = model.DPOConfig(loss=kind, imitation=0.3)
  prepare = model.make_prepare(FUNCTIONS, config, microbatches=1)
  plain = jax.tree.map(np.asarray, referenced(pairs(), reference))
  shape = packing.row_shape(packing.lengths_of(plain), round_to=8)
  found = []
  for batch in (plain, packing.pack_pairs(plain, shape, multiple=2)):
    batch = batch if prepare is None else prepare(policy, batch)
    loss, _ = model.make_loss(FUNCTIONS, config)(policy, batch, None)
    found.append(float(loss.mean()))
  assert found[0] == pytest.approx(found[1], rel=1e-4)
  own = {
    "kto": lambda: alternatives.make_kto_loss(FUNCTIONS, beta=0.1),
    "rrhf": lambda: alternatives.make_rrhf_loss(FUNCTIONS, imitation=0.3),
  }
  if prepare is not None:
    plain = prepare(policy, plain)
  expected = own[kind]()(policy, plain, None)[0].mean()
  assert found[0] == pytest.approx(float(expected), rel=1e-5)
  with pytest.raises(ValueError, match="label_smoothing"):
    model.DPOConfig(loss=kind, label_smoothing=0.1)


def test_at_the_reference_the_loss_is_log_two_and_nothing_moved(params):
  reference = params[1]
  loss, metrics = jax.jit(model.make_loss(FUNCTIONS, model.DPOConfig()))(
    reference, referenced(pairs(), reference), None
  )
  np.testing.assert_allclose(loss.mean(), np.log(2), rtol=1e-6)
  assert abs(float(metrics["kl"].mean())) < 1e-6
  assert float(metrics["chosen_log_prob"].mean()) < -1


def test_pairs_without_weight_change_nothing(params):
  policy, reference = params
  batch = referenced(pairs(weight=(1.0, 0.0, 1.0)), reference)
  spoiled = batch.replace(
    ref_log_probs=batch.ref_log_probs.at[1].set(jnp.nan),
    label=np.float32([1.0, 0.9, 0.6]),
  )
  loss = model.make_loss(FUNCTIONS, model.DPOConfig())
  run = jax.jit(jax.value_and_grad(lambda p, b: loss(p, b, None)[0].mean()))
  a, b = run(policy, batch), run(policy, spoiled)
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_packed_pairs_have_the_same_loss_and_gradient(params):
  policy, reference = params
  plain = referenced(pairs(), reference)
  plain = jax.tree.map(np.asarray, plain)
  shape = packing.row_shape(packing.lengths_of(plain), round_to=8)
  rows = packing.pack_pairs(plain, shape, multiple=2)
  loss = model.make_loss(FUNCTIONS, model.DPOConfig(beta=0.5))

  def run(batch):
    def mean(p):
      value, metrics = loss(p, batch, None)
      return value.mean(), {k: m.mean() for k, m in metrics.items()}

    return jax.jit(jax.value_and_grad(mean, has_aux=True))(policy)

  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5, rtol=1e-5),
    run(plain),
    run(rows),
  )


def tabular():
  """A policy that is its table [V] of logits, whatever the prompt."""

  def hidden(params, batch):
    return jnp.broadcast_to(params, (*batch.response.shape, params.shape[0]))

  def nothing(*args):
    raise AssertionError(f"DPO needs no more than log-probs, not {args}")

  return protocols.LanguageModel(
    init=nothing,
    hidden=hidden,
    logits=lambda params, hidden: hidden,
    prefill=nothing,
    prefill_packed=nothing,
    decode_step=nothing,
    prepare=nothing,
    cache=None,
    vocab_size=5,
    max_length=2,
  )


def test_the_minimum_over_all_pairs_is_the_tilted_reference():
  """pi_ref exp(r / beta) / Z, where labels are Bradley-Terry's (eq. 4)."""
  beta = 0.3
  reward = jnp.array([0.5, -0.2, 0.9, 0.0, -1.0])
  reference = jnp.array([0.1, 0.7, -0.5, 0.0, 1.2])
  ours = np.array(list(itertools.combinations(range(5), 2)))
  tokens = np.stack([np.zeros_like(ours), ours], axis=-1)  # [10, 2, (c, y)]

  def text(which):
    return batches.TokenBatch(
      tokens=jnp.asarray(tokens[:, which]),
      valid=jnp.ones((10, 2), bool),
      weights=jnp.ones((10, 1)),
    )

  plain = testing.pair_batch(
    first=text(0),
    second=text(1),
    label=jax.nn.sigmoid(reward[ours[:, 0]] - reward[ours[:, 1]]),
    weight=jnp.ones(10),
  )
  policy = tabular()
  known = scoring.pair_log_probs(policy, reference, plain)
  batch = plain.replace(ref_log_probs=jnp.stack(known, axis=-1))
  loss = model.make_loss(policy, model.DPOConfig(beta=beta))

  def mean(logits):
    return loss(logits, batch, None)[0].mean()

  @jax.jit
  def newton(logits):
    # A shift of all logits changes nothing: the least solution.
    step = jnp.linalg.pinv(jax.hessian(mean)(logits), rtol=1e-4)
    return logits - step @ jax.grad(mean)(logits)

  logits = reference
  for _ in range(20):
    logits = newton(logits)
  tilted = jax.nn.softmax(reference + reward / beta)
  np.testing.assert_allclose(jax.nn.softmax(logits), tilted, atol=1e-5)


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"beta": 0.0}, "beta is 0.0; it must be > 0"),
    ({"loss": "hinge"}, "logistic"),
    ({"label_smoothing": 0.5}, "< 0.5"),
  ],
)
def test_bad_options(changes, message):
  with pytest.raises(ValueError, match=message):
    model.DPOConfig(**changes)
