# SPDX-License-Identifier: Apache-2.0
"""One suite for every algorithm of the table, and the paper's loss by hand."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlaif_jax.core import batches
from rlaif_jax.engine import decode
from rlaif_jax.engine import guards
from rlaif_jax.engine import mesh
from rlaif_jax.engine import scoring
from rlaif_jax.engine import step
from rlaif_jax.models import decoder
from rlaif_jax.models import heads
from rlaif_jax.rl import algorithms
from rlaif_jax.rl import objective
from rlaif_jax.rl import rollout
from rlaif_jax.rl import update
from tests import testing

VOCAB, PROMPT, LENGTH, ROWS, EOS = 9, 5, 6, 8, 1
TEMPERATURE = 0.8
CONFIG = testing.tiny_decoder(VOCAB)
POLICY = decoder.functions(CONFIG)
VALUE = heads.functions(CONFIG)
SAMPLING = decode.SamplingConfig(max_tokens=LENGTH, temperature=TEMPERATURE)

SETTINGS = {
  "reinforce": {},
  "reinforce_kl_in_loss": {"kl_in": "loss"},
  "ppo": {"algorithm": "ppo"},
  "ppo_pairs": {"algorithm": "ppo", "samples_per_prompt": 2},
  "rloo": {"algorithm": "rloo", "samples_per_prompt": 2},
  "grpo": {"algorithm": "grpo", "samples_per_prompt": 2},
  "dr_grpo": {"algorithm": "dr_grpo", "samples_per_prompt": 2},
  "dapo": {"algorithm": "dapo", "samples_per_prompt": 2, "beta": 0.1},
  "gspo": {"algorithm": "gspo", "samples_per_prompt": 2},
  "rloo_k2_response": {
    "algorithm": "rloo",
    "samples_per_prompt": 2,
    "kl_in": "loss",
    "kl_estimator": "k2_response",
  },
}


@pytest.fixture(scope="module")
def models():
  value = testing.build(VALUE, 1)
  kernel = 0.1 * jax.random.normal(jax.random.key(9), (CONFIG.width, 1))
  value = {**value, "head": {**value["head"], "kernel": kernel}}
  return {
    "policy": testing.build(POLICY),
    "value": value,
    "reference": testing.build(POLICY, 5),
  }


def prompt_batch(rows=ROWS):
  generator = np.random.default_rng(0)
  tokens = generator.integers(2, VOCAB, (rows, PROMPT)).astype(np.int32)
  valid = np.arange(PROMPT)[None] >= (np.arange(rows) % 4)[:, None]
  return batches.PromptBatch(
    prompt=tokens,
    prompt_valid=valid,
    context=tokens,
    context_valid=valid,
    row=np.arange(rows, dtype=np.int32),
  )


def count_sevens(params, prompts, response, mask):
  """A reward that a policy learns in a few steps: the share of token 7."""
  del params, prompts
  return jnp.sum((response == 7) * mask, axis=-1) - 0.5


def setup(name, models):
  config = algorithms.RLConfig(sampling=SAMPLING, **SETTINGS[name])
  row = algorithms.ALGORITHMS[config.algorithm]
  params = {"policy": models["policy"]}
  if row.needs_value:
    params["value"] = models["value"]
  collect = rollout.make_collect(
    POLICY,
    VALUE,
    count_sevens,
    config=config,
    eos_ids=(EOS,),
  )
  loss = update.make_loss(POLICY, VALUE, config)
  frozen = {"reference": models["reference"], "scorer": None}
  return config, params, collect, loss, frozen


@pytest.mark.parametrize("name", sorted({*SETTINGS} - {"ppo_pairs"}))
def test_what_stands_behind_the_end_changes_nothing(name, models):
  """Traps: padding in returns, entropy, KL, values; NaN behind the end."""
  _, params, collect, loss, frozen = setup(name, models)
  batch, _ = collect(params, frozen, prompt_batch(), jax.random.key(0))
  padding = batch.mask == 0
  assert bool(padding.any())

  def spoil(x, value):
    return jnp.where(padding, value, x)

  spoiled = batch.replace(
    response=spoil(batch.response, 3),
    log_probs=spoil(batch.log_probs, jnp.nan),
    ref_log_probs=spoil(batch.ref_log_probs, -1e9),
    advantages=spoil(batch.advantages, 1e6),
    targets=spoil(batch.targets, 1e6),
  )
  gradient = jax.jit(jax.value_and_grad(lambda p, b: loss(p, b, None)[0].total))
  total, clean = gradient(params, batch)
  other, dirty = gradient(params, spoiled)
  np.testing.assert_allclose(total, other, rtol=1e-5)
  for a, b in zip(jax.tree.leaves(clean), jax.tree.leaves(dirty)):
    np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("name", sorted({*SETTINGS} - {"ppo_pairs"}))
def test_it_learns_and_compiles_once(name, models):
  config, params, collect, loss, frozen = setup(name, models)
  devices = mesh.make_mesh("data:-1", jax.devices()[:1])
  tx = optax.adam(2e-2)
  params = jax.tree.map(jnp.copy, params)
  params = jax.device_put(
    params,
    jax.sharding.NamedSharding(devices, jax.sharding.PartitionSpec()),
  )
  state = step.state_from_params(params, tx, devices)
  train_step = step.make_train_step(loss, tx)
  scores = []
  for number in range(25):
    batch, metrics = collect(
      state.params, frozen, prompt_batch(32), jax.random.key(number)
    )
    key = jax.random.key(number)
    with guards.no_recompilation(name, number > 0):
      state, _ = train_step(state, batch, key)
    scores.append(float(metrics["score"].mean()))
  assert np.mean(scores[-5:]) > np.mean(scores[:5]) + 0.3


def test_reinforce_loss_by_hand(models):
  """L_PG + L_V of the paper's appendix F, token by token."""
  config, params, collect, loss, frozen = setup("reinforce", models)
  batch, _ = collect(params, frozen, prompt_batch(), jax.random.key(0))
  assert batch.response.shape == (ROWS, 1, LENGTH)
  joined = batch.texts.rows(0)
  done = jax.tree.map(
    lambda x: x[:, 0], batch.replace(prompts=None, score=batch.score[..., None])
  )
  log_probs = scoring.response_log_probs(
    POLICY, params["policy"], joined, temperature=TEMPERATURE
  )
  values = VALUE.states(params["value"], joined)[:, :-1]
  total = 0.0
  for row in range(ROWS):
    length = int(done.mask[row].sum())
    for t in range(length):
      later = slice(t, length)
      kl = done.log_probs[row, later] - done.ref_log_probs[row, later]
      target = 0.95 * done.score[row, 0] - 0.05 * jnp.sum(kl)
      gap = float(target - values[row, t])
      total += -float(log_probs[row, t]) * gap + gap**2
  result = loss(params, batch, None)[0]
  np.testing.assert_allclose(result.total, total, rtol=1e-4)
  assert float(result.weight) == ROWS


@pytest.mark.parametrize("name", ["rloo", "gspo", "ppo_pairs"])
def test_samples_that_share_their_prompt_have_the_same_gradient(name, models):
  config, params, collect, shared, frozen = setup(name, models)
  apart = update.make_loss(
    testing.unshared(POLICY), testing.unshared(VALUE), config
  )
  batch, _ = collect(params, frozen, prompt_batch(), jax.random.key(0))
  assert batch.response.shape == (ROWS, 2, LENGTH)
  # One update away, so that ratios are not 1.
  params = jax.tree.map(lambda x: 1.01 * x, params)

  def run(loss):
    def mean(p):
      value, metrics = loss(p, batch, None)
      return value.mean(), {k: m.mean() for k, m in metrics.items()}

    return jax.jit(jax.value_and_grad(mean, has_aux=True))(params)

  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5, rtol=1e-5),
    run(shared),
    run(apart),
  )


@pytest.mark.parametrize("name", ["reinforce", "dapo"])
def test_microbatches_give_the_same_gradient(name, models):
  _, params, collect, loss, frozen = setup(name, models)
  batch, _ = collect(params, frozen, prompt_batch(), jax.random.key(0))
  whole, parts = (
    jax.jit(
      lambda p, count=count: step.accumulate_gradients(
        loss, p, batch, None, count
      )[0]
    )(params)
    for count in (1, 4)
  )
  for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts)):
    np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(
  "changes, word",
  [
    ({"algorithm": "reinforced"}, "algorithm"),
    ({"algorithm": "rloo"}, "samples_per_prompt"),
    ({"beta": 1.5}, "beta"),
    ({"kl_in": "nowhere"}, "kl_in"),
    ({"kl_estimator": "k4"}, "kl_estimator"),
    ({"epochs": 2}, "off-policy"),
    ({"loss_mean": "row"}, "loss_mean"),
    ({"sampling": decode.SamplingConfig(max_tokens=4, top_k=2)}, "top_k"),
    ({"sampling": decode.SamplingConfig(max_tokens=4, top_p=0.9)}, "top_p"),
    ({"value": objective.ValueConfig(whiten=True)}, "whiten"),
    ({"ratio": objective.RatioConfig(high=0.3)}, "no importance ratio"),
    (
      {"kl_estimator": "k2_response", "loss_mean": "token"},
      "k2_response",
    ),
  ],
)
def test_bad_settings_are_named(changes, word):
  with pytest.raises(ValueError, match=word):
    algorithms.RLConfig(**changes)


def test_options_change_the_result(models):
  """Trap: options that nothing reads."""
  base = setup("reinforce", models)
  done, _ = base[2](base[1], base[4], prompt_batch(), jax.random.key(0))
  plain = algorithms.shaped_rewards(done, base[0])
  for change in (
    {"beta": 0.5},
    {"kl_in": "loss"},
    {"weight_score_by_one_minus_beta": False},
  ):
    other = dataclasses.replace(base[0], **change)
    assert np.abs(algorithms.shaped_rewards(done, other) - plain).max() > 1e-3
