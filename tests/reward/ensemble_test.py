# SPDX-License-Identifier: Apache-2.0
"""Ensembles against single models: the same numbers, trained apart."""

from __future__ import annotations

import dataclasses
import typing

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlaif_jax.core import batches
from rlaif_jax.engine import mesh
from rlaif_jax.engine import step
from rlaif_jax.models import heads
from rlaif_jax.models import lora
from rlaif_jax.reward import ensemble
from rlaif_jax.reward import model as reward_model
from rlaif_jax.reward import scorers
from tests import testing

VOCAB, ROWS = 11, 6
MODEL = heads.functions(testing.tiny_decoder(VOCAB, num_layers=1))
LORA = lora.LoraConfig(rank=2, targets=("decoder/.*/(query|up)/kernel",))


def config(kind, **changes):
  return ensemble.EnsembleConfig(kind=kind, members=3, lora=LORA, **changes)


def tokens(seed):
  generator = np.random.default_rng(seed)
  lengths = generator.integers(2, 6, ROWS)
  valid = np.arange(7)[None] < (2 + lengths)[:, None]
  ids = generator.integers(2, VOCAB, (ROWS, 7)).astype(np.int32)
  return testing.whole_batch(jnp.asarray(ids), jnp.asarray(valid), 5)


def pairs():
  label = np.array([1, 0, 1, 1, 0, 0.5], np.float32)
  weight = np.array([1, 1, 1, 1, 1, 0], np.float32)
  return testing.pair_batch(
    first=tokens(0), second=tokens(1), label=label, weight=weight
  )


def spread(params):
  """Adapters that do something."""
  keys = iter(jax.random.split(jax.random.key(7), 100))
  return jax.tree.map(
    lambda x: x + 0.3 * jax.random.normal(next(keys), x.shape), params
  )


def member(params, kind, index):
  """One member as a whole model of its own."""
  own = jax.tree.map(lambda x: x[index], params["members"])
  if kind == "independent":
    return own
  whole = {**params["shared"], "head": own["head"]}
  if kind == "lora":
    whole = lora.merge(whole, own["adapters"], LORA)
  return whole


@pytest.mark.parametrize("kind", typing.get_args(ensemble.Kind))
def test_members_are_single_models(kind):
  params = ensemble.init(MODEL, config(kind), jax.random.key(0))
  params = {**params, "members": spread(params["members"])}
  found = ensemble.member_rewards(MODEL, config(kind), params, tokens(0))
  assert found.shape == (3, ROWS)
  for index in range(3):
    alone = MODEL.last(member(params, kind, index), tokens(0))
    np.testing.assert_allclose(found[index], alone, atol=1e-5)
  assert np.abs(found[0] - found[1]).max() > 1e-3


@pytest.mark.parametrize("kind", typing.get_args(ensemble.Kind))
def test_how_many_parameters(kind):
  """k (M + L), M + k L, M + k (A + L)."""
  one = nn.unbox(MODEL.init(jax.random.key(0)))
  trunk, head = (
    sum(leaf.size for leaf in jax.tree.leaves(one[name]))
    for name in ("decoder", "head")
  )
  adapter = sum(
    leaf.size
    for leaf in jax.tree.leaves(lora.init(jax.random.key(0), one, LORA))
  )
  expected = {
    "independent": 3 * (trunk + head),
    "heads": trunk + 3 * head,
    "lora": trunk + 3 * (adapter + head),
  }
  params = ensemble.init(MODEL, config(kind), jax.random.key(0))
  assert sum(x.size for x in jax.tree.leaves(params)) == expected[kind]


def test_members_differ_at_the_start_and_heads_have_their_scale():
  for kind in typing.get_args(ensemble.Kind):
    wide = config(kind, head_scale=2.0)
    params = ensemble.init(MODEL, wide, jax.random.key(0))
    kernel = params["members"]["head"]["kernel"]
    assert np.abs(kernel[0] - kernel[1]).max() > 0.1
    narrow = ensemble.init(MODEL, config(kind), jax.random.key(0))
    np.testing.assert_allclose(
      kernel, 20 * narrow["members"]["head"]["kernel"], rtol=1e-5
    )


def test_a_trunk_that_is_given_is_shared():
  trunk = nn.unbox(MODEL.init(jax.random.key(5)))["decoder"]
  params = ensemble.init(MODEL, config("heads"), jax.random.key(0), trunk)
  assert params["shared"]["decoder"] is trunk


def test_independent_members_train_as_if_alone():
  """One step of the ensemble is one step of each, whatever the others do."""
  devices = mesh.make_mesh("data:-1", jax.devices()[:1])
  tx = optax.sgd(0.1)
  params = ensemble.init(MODEL, config("independent"), jax.random.key(0))
  weights = np.array([[1, 2, 0]] * ROWS, np.float32)
  weights[0] = [3, 0, 1]
  batch = ensemble.MemberPairs(pairs=pairs(), weights=weights)
  loss = ensemble.make_loss(MODEL, config("independent"))
  gradient = jax.grad(lambda p: loss(p, batch, None)[0].total)(params)
  single = reward_model.make_loss(MODEL)
  for index in range(3):
    own = pairs().replace(weight=pairs().weight * weights[:, index])
    alone = jax.grad(lambda p, own=own: single(p, own, None)[0].total)(
      member(params, "independent", index)
    )
    for a, b in zip(
      jax.tree.leaves(member(gradient, "independent", index)),
      jax.tree.leaves(alone),
    ):
      np.testing.assert_allclose(a, b, atol=1e-5)
  # And the mean's weight is that of a mean member, for the division by it.
  assert float(loss(params, batch, None)[0].weight) == weights[:5].sum() / 3
  state = step.state_from_params(
    jax.device_put(params, mesh.replicated(devices)), tx, devices
  )
  update = step.make_train_step(loss, tx)
  state, metrics = update(state, batch, jax.random.key(0))
  assert np.isfinite(float(metrics["loss"].mean()))


def test_a_loss_on_the_mean_leaves_members_free():
  """Opposite shifts of two members do not change it."""
  params = ensemble.init(
    MODEL, config("heads", head_scale=1.0), jax.random.key(0)
  )
  batch = ensemble.MemberPairs(
    pairs=pairs(), weights=np.ones((ROWS, 3), np.float32)
  )
  kernel = params["members"]["head"]["kernel"]
  apart = kernel.at[0].add(1.0).at[1].add(-1.0)
  head = {**params["members"]["head"], "kernel": apart}
  moved = {**params, "members": {"head": head}}
  for loss_on, is_free in (("mean", True), ("members", False)):
    loss = ensemble.make_loss(MODEL, config("heads", loss_on=loss_on))
    before, after = (
      float(loss(p, batch, None)[0].mean()) for p in (params, moved)
    )
    assert (abs(before - after) < 1e-5) == is_free


def test_diversity_enters_the_loss_and_its_slope():
  params = ensemble.init(MODEL, config("lora"), jax.random.key(0))
  batch = ensemble.MemberPairs(
    pairs=pairs(), weights=np.ones((ROWS, 3), np.float32)
  )
  values, gradients = [], []
  for diversity in (0.0, 0.5):
    loss = ensemble.make_loss(MODEL, config("lora", diversity=diversity))
    value, gradient = jax.value_and_grad(
      lambda p, loss=loss: loss(p, batch, None)[0].mean()
    )(params)
    values.append(float(value))
    gradients.append(gradient)
  ratio = ensemble.diversity_ratio(params["members"]["adapters"])
  np.testing.assert_allclose(values[0] - values[1], 0.5 * ratio, rtol=1e-5)
  slope = jax.grad(ensemble.diversity_ratio)(params["members"]["adapters"])
  for path in slope:
    np.testing.assert_allclose(
      gradients[0]["members"]["adapters"][path]["a"]
      - gradients[1]["members"]["adapters"][path]["a"],
      0.5 * slope[path]["a"],
      atol=1e-5,
    )


def test_bootstrap_resamples_for_each_member():
  generator = np.random.default_rng(0)
  plain = ensemble.bootstrap_weights(config("heads"), generator, 40)
  np.testing.assert_array_equal(plain, np.ones((40, 3)))
  drawn = ensemble.bootstrap_weights(
    config("heads", bootstrap=True), generator, 40
  )
  np.testing.assert_array_equal(drawn.sum(axis=0), [40, 40, 40])
  assert (drawn[:, 0] != drawn[:, 1]).any() and drawn.max() > 1


def test_the_scorer_reads_members_in_their_units():
  kind = config("independent", head_scale=1.0)
  params = ensemble.init(MODEL, kind, jax.random.key(0))
  prompts = batches.PromptBatch(
    prompt=tokens(0).tokens[:, :2],
    prompt_valid=tokens(0).valid[:, :2],
    context=tokens(0).tokens[:, :2],
    context_valid=tokens(0).valid[:, :2],
    row=np.arange(ROWS),
  )
  response = tokens(0).tokens[:, None, 2:]
  mask = tokens(0).weights[:, None]
  single = scorers.reward_scorer(MODEL)
  shift, scale = np.array([[1.0, -2.0, 0.5], [1.0, 2.0, 0.1]])
  members = np.stack(
    [
      (single(member(params, "independent", i), prompts, response, mask) - a)
      / b
      for i, (a, b) in enumerate(zip(shift, scale))
    ]
  )
  unit = ensemble.Unit(
    params=params, shift=jnp.asarray(shift), scale=jnp.asarray(scale)
  )
  for aggregate, expected in (
    ("mean", members.mean(axis=0)),
    ("wco", members.min(axis=0)),
    ("lcb", members.mean(axis=0) - 0.7 * members.std(axis=0)),
  ):
    score = ensemble.ensemble_scorer(
      MODEL, kind, aggregate=aggregate, coefficient=0.7
    )
    found = score(unit, prompts, response, mask)
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(
  "changes, word",
  [
    ({"kind": "dropout"}, "dropout"),
    ({"members": 0}, "members"),
    ({"loss_on": "median"}, "median"),
    ({"first_phase": 1.0}, "first_phase"),
    ({"diversity": 0.1}, "adapters"),
  ],
)
def test_bad_ensembles_are_named(changes, word):
  with pytest.raises(ValueError, match=word):
    dataclasses.replace(ensemble.EnsembleConfig(), **changes)
