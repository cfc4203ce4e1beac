# SPDX-License-Identifier: Apache-2.0
"""Each loss by hand from log-probs, and what each does to a table."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlaif_jax.dpo import alternatives
from rlaif_jax.dpo import model
from rlaif_jax.engine import mesh
from rlaif_jax.engine import scoring
from rlaif_jax.engine import step
from rlaif_jax.models import decoder
from tests import testing

VOCAB, ROWS = 9, 4
MODEL = decoder.functions(testing.tiny_decoder(VOCAB, num_layers=1))
LABEL = np.array([1, 0, 1, 1], np.float32)
WEIGHT = np.array([1, 2, 0.5, 0], np.float32)


def side(seed):
  generator = np.random.default_rng(seed)
  ids = generator.integers(2, VOCAB, (ROWS, 6))
  ids[:, :2] = np.random.default_rng(99).integers(2, VOCAB, (ROWS, 2))
  valid = np.arange(6)[None] < generator.integers(3, 7, ROWS)[:, None]
  return testing.whole_batch(jnp.asarray(ids), jnp.asarray(valid), 4)


@pytest.fixture(scope="module")
def world():
  params = testing.build(MODEL)
  pairs = testing.pair_batch(
    first=side(0), second=side(1), label=LABEL, weight=WEIGHT
  )
  # The last row only fills the batch, and holds garbage.
  known = [[-8.0, -9.0], [-9.0, -8.0], [-7.0, -9.0], [np.nan, np.nan]]
  batch = pairs.replace(ref_log_probs=np.array(known, np.float32))
  log_probs = scoring.pair_log_probs(MODEL, params, pairs)
  return params, batch, [np.asarray(x, np.float64) for x in log_probs]


def test_rrhf_by_hand(world):
  params, batch, (first, second) = world
  lengths = [np.asarray(side(i).weights).sum(axis=1) for i in (0, 1)]
  margin = first / lengths[0] - second / lengths[1]
  hinge = np.where(LABEL > 0.5, np.maximum(-margin, 0), np.maximum(margin, 0))
  chosen = np.where(LABEL > 0.5, first, second)
  assert hinge[:3].max() > 0
  loss = alternatives.make_rrhf_loss(MODEL, imitation=0.3)
  found, metrics = loss(params, batch, None)
  expected = np.sum(WEIGHT * (hinge - 0.3 * chosen))
  np.testing.assert_allclose(found.total, expected, rtol=1e-5)
  np.testing.assert_allclose(found.weight, WEIGHT.sum())
  assert np.isfinite(float(metrics["chosen_log_prob"].mean()))


def test_kto_by_hand(world):
  params, batch, (first, second) = world
  real = slice(0, 3)
  ratio = (np.stack([first, second]) - batch.ref_log_probs.T)[:, real]
  weight, label = WEIGHT[real], LABEL[real]
  point = max(np.average(ratio.mean(axis=0), weights=weight), 0.0)
  sign = np.stack([2 * label - 1, 1 - 2 * label])
  terms = 1 / (1 + np.exp(0.5 * sign * (ratio - point)))
  loss = alternatives.make_kto_loss(MODEL, beta=0.5)
  batch = alternatives.make_kto_prepare(MODEL)(params, batch)
  found, metrics = loss(params, batch, None)
  shown = metrics["reference_point"].mean()
  np.testing.assert_allclose(shown, point, rtol=1e-4)
  expected = np.sum(weight * terms.sum(axis=0))
  np.testing.assert_allclose(found.total, expected, rtol=1e-5)
  slope = jax.grad(lambda p: loss(p, batch, None)[0].total)(params)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(slope))


def test_imitation_reads_the_preferred_alone(world):
  params, batch, (first, second) = world
  loss = alternatives.make_imitation_loss(MODEL)
  found, _ = loss(params, batch, None)
  chosen = np.where(LABEL > 0.5, first, second)
  np.testing.assert_allclose(found.total, -np.sum(WEIGHT * chosen), rtol=1e-5)


def test_microbatches_do_not_change_kto(world):
  """Trap: a reference point of each microbatch."""
  params, batch, _ = world
  batch = batch.replace(ref_log_probs=batch.ref_log_probs - 4.0)
  tx = optax.sgd(0.1)
  devices = mesh.make_mesh("data:-1", jax.devices()[:1])
  placed = jax.device_put(
    jax.tree.map(jnp.copy, params),
    jax.sharding.NamedSharding(devices, jax.sharding.PartitionSpec()),
  )
  config = model.DPOConfig(loss="kto", beta=0.5)
  found = []
  for count in (1, 2):
    update = step.make_train_step(
      model.make_loss(MODEL, config),
      tx,
      microbatches=count,
      prepare=model.make_prepare(MODEL, config, microbatches=count),
    )
    state = step.state_from_params(jax.tree.map(jnp.copy, placed), tx, devices)
    state, metrics = update(state, batch, jax.random.key(0))
    found.append((state.params, {k: m.mean() for k, m in metrics.items()}))
  assert float(found[0][1]["reference_point"]) > 0.1
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found[0], found[1]
  )
