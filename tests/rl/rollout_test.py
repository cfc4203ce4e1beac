# SPDX-License-Identifier: Apache-2.0
"""Rollouts: what they hold, on which rows, and what they report."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.core import compute as compute_lib
from rlaif_jax.core import batches
from rlaif_jax.engine import decode
from rlaif_jax.engine import mesh
from rlaif_jax.models import decoder
from rlaif_jax.models import heads
from rlaif_jax.rl import algorithms
from rlaif_jax.rl import rollout
from tests import testing

VOCAB, EOS = 9, 1
CONFIG = testing.tiny_decoder(VOCAB)
POLICY, VALUE = decoder.functions(CONFIG), heads.functions(CONFIG)


def prompts(rows):
  tokens = np.random.default_rng(0).integers(2, VOCAB, (rows, 4))
  valid = np.ones((rows, 4), bool)
  return batches.PromptBatch(
    prompt=jnp.asarray(tokens, jnp.int32),
    prompt_valid=jnp.asarray(valid),
    context=jnp.asarray(tokens, jnp.int32),
    context_valid=jnp.asarray(valid),
    row=jnp.arange(rows, dtype=jnp.int32),
  )


def collect_with(
  params,
  reference,
  scorer,
  batch,
  temperature=0.7,
  reshard=lambda policy: policy,
  **config,
):
  collect = rollout.make_collect(
    POLICY,
    VALUE,
    scorer,
    config=algorithms.RLConfig(
      sampling=decode.SamplingConfig(max_tokens=5, temperature=temperature),
      **config,
    ),
    eos_ids=(EOS,),
    reshard=reshard,
  )
  frozen = {"reference": reference, "scorer": None}
  return collect(params, frozen, batch, jax.random.key(1))


def length_score(params, batch, response, mask):
  del params, batch, response
  return jnp.sum(mask, axis=-1)


@pytest.fixture(scope="module")
def params():
  return {"policy": testing.build(POLICY), "value": testing.build(VALUE, 1)}


def test_policy_equal_to_reference_has_no_kl(params):
  """Trap: sampling and scoring at different temperatures."""
  done, metrics = collect_with(
    params, params["policy"], length_score, prompts(16)
  )
  np.testing.assert_allclose(done.log_probs, done.ref_log_probs, atol=1e-5)
  assert abs(float(metrics["kl"].mean())) < 1e-4
  assert abs(float(metrics["kl_k3"].mean())) < 1e-6


def test_responses_without_an_end_are_penalised(params):
  plain, penalised = (
    collect_with(
      params,
      params["policy"],
      length_score,
      prompts(16),
      unfinished_penalty=penalty,
      samples_per_prompt=2,
      algorithm="rloo",
    )[0]
    for penalty in (0.0, 3.0)
  )
  np.testing.assert_array_equal(plain.response, penalised.response)
  has_end = np.any(
    (np.asarray(plain.response) == EOS) & (np.asarray(plain.mask) > 0), axis=2
  )
  assert has_end.any() and not has_end.all()
  np.testing.assert_allclose(
    plain.score - penalised.score, 3.0 * ~has_end, atol=1e-6
  )


def test_reported_kl_is_that_of_the_shaped_reward(params):
  """Trap: the KL that is reported is not the KL that is trained."""
  config = {"beta": 0.3}
  done, metrics = collect_with(
    params, testing.build(POLICY, 5), length_score, prompts(16), **config
  )
  # The return of the first token is 0.7 score - 0.3 KL of the response.
  kl = (0.7 * done.score - done.targets[..., 0]) / 0.3
  np.testing.assert_allclose(
    float(metrics["kl"].mean()), float(kl.mean()), rtol=1e-4
  )


def test_scores_are_per_response_and_metrics_ignore_padding(params):
  done, metrics = collect_with(
    params, params["policy"], length_score, prompts(16)
  )
  lengths = np.asarray(done.mask).sum(axis=-1)
  np.testing.assert_array_equal(done.score, lengths)
  assert float(metrics["tokens"].mean()) == pytest.approx(lengths.mean())
  real = np.asarray(done.log_probs)[np.asarray(done.mask) > 0]
  assert float(metrics["sampled_log_prob"].mean()) == pytest.approx(
    real.mean(), rel=1e-5
  )


def test_samples_of_a_prompt_differ_and_are_compared(params):
  done, _ = collect_with(
    params,
    params["policy"],
    length_score,
    prompts(6),
    algorithm="rloo",
    samples_per_prompt=4,
    beta=0.0,
  )
  assert done.response.shape == (6, 4, 5)
  assert len({tuple(r) for r in np.asarray(done.response[0])}) > 1
  highest = np.asarray(done.advantages).max(axis=2)
  lowest = np.asarray(done.advantages).min(axis=2)
  centred = np.asarray(done.score)
  expected = (centred - centred.mean(axis=1, keepdims=True)) * 4 / 3
  np.testing.assert_allclose(
    np.where(expected > 0, highest, lowest), expected, atol=1e-5
  )


def test_a_sample_does_not_depend_on_the_batch(params):
  batch = prompts(8)
  whole = collect_with(params, params["policy"], length_score, batch)[0]
  part = jax.tree.map(lambda x: x[2:5], batch)
  some = collect_with(params, params["policy"], length_score, part)[0]
  np.testing.assert_array_equal(whole.response[2:5], some.response)


def test_a_copy_samples_what_the_policy_would(params):
  """Parameters split by fsdp, sampled from where they lie and from a copy."""
  devices = mesh.make_mesh("fsdp:8", jax.devices()[:8])
  split = jax.tree.map(
    lambda x, to: jax.device_put(x, to.sharding),
    params["policy"],
    mesh.abstract_params(POLICY.init, devices),
  )
  whole = compute_lib.Placement(rules=(("embed", ""),))
  batch = mesh.put_batch(devices, prompts(16))
  asked = []

  def reshard(policy):
    asked.append(policy)
    return mesh.make_reshard(POLICY.init, devices, whole)(policy)

  one, _ = collect_with(dict(params, policy=split), split, length_score, batch)
  other, _ = collect_with(
    dict(params, policy=split), split, length_score, batch, reshard=reshard
  )
  assert asked == [split]
  np.testing.assert_array_equal(one.response, other.response)
  np.testing.assert_allclose(one.log_probs, other.log_probs, atol=1e-5)


def test_values_for_ppo_are_of_the_state_before_each_token(params):
  value = params["value"]
  kernel = jax.random.normal(jax.random.key(3), (CONFIG.width, 1))
  value = {**value, "head": {**value["head"], "kernel": kernel}}
  own = {**params, "value": value}
  done, _ = collect_with(
    own, params["policy"], length_score, prompts(4), algorithm="ppo"
  )
  states = VALUE.states(value, done.texts.rows(0))
  np.testing.assert_allclose(
    done.values[:, 0], states[:, :-1] * done.mask[:, 0], atol=1e-5
  )


def test_greedy_rollouts_are_refused(params):
  with pytest.raises(ValueError, match="temperature"):
    collect_with(
      params, params["policy"], length_score, prompts(2), temperature=0.0
    )
