# SPDX-License-Identifier: Apache-2.0
"""Each preset against its paper's formula in NumPy loops, on random inputs."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.core import protocols
from rlaif_jax.engine import decode
from rlaif_jax.engine import scoring
from rlaif_jax.rl import algorithms
from rlaif_jax.rl import objective
from rlaif_jax.rl import rollout
from rlaif_jax.rl import update
from tests.rl import algorithms_test as world

B, N, R, V, EOS = 3, 4, 6, 7, 1
SAMPLING = decode.SamplingConfig(max_tokens=R, temperature=1.0)


def unused(*args):
  raise AssertionError(f"a table has no {args}")


POLICY = protocols.LanguageModel(
  init=unused,
  # The parameters are the logits of every token of every response.
  hidden=lambda params, batch: params,
  logits=lambda params, states: states,
  prefill=unused,
  prefill_packed=unused,
  decode_step=unused,
  prepare=unused,
  cache=None,
  vocab_size=V,
  max_length=64,
)
VALUE = protocols.ScalarModel(
  init=unused,
  states=lambda params, batch: jnp.pad(params, ((0, 0), (0, 0), (0, 1))),
  last=unused,
  is_causal=True,
)


def table(seed, scale=1.0):
  normal = np.random.default_rng(seed).normal(size=(B, N, R, V))
  return jnp.asarray(scale * normal, jnp.float32)


@dataclasses.dataclass(frozen=True)
class Case:
  """Random responses; log-probs and values in float64 for the twins."""

  samples: decode.SampledResponses
  score: np.ndarray
  tables: dict
  new: np.ndarray
  old: np.ndarray
  ref: np.ndarray
  values: np.ndarray
  old_values: np.ndarray
  lengths: np.ndarray

  def mean_over_responses(self, term):
    return np.mean([term(i, j) for i in range(B) for j in range(N)])


@pytest.fixture(scope="module")
def case():
  generator = np.random.default_rng(0)
  lengths = generator.integers(1, R + 1, (B, N))
  mask = (np.arange(R) < lengths[..., None]).astype(np.float32)
  response = generator.integers(2, V, (B, N, R)).astype(np.int32)
  ends = lengths < R
  b, n = np.nonzero(ends)
  response[b, n, lengths[b, n] - 1] = EOS
  old = table(1)
  tables = {"new": old + table(2, 0.4), "old": old, "ref": table(3)}

  def log_probs(logits):
    found = jax.nn.log_softmax(logits, axis=-1)
    return np.asarray(
      jnp.take_along_axis(found, jnp.asarray(response)[..., None], -1)[..., 0],
      np.float64,
    )

  read = {name: log_probs(logits) for name, logits in tables.items()}
  values, old_values = generator.normal(size=(2, B, N, R))
  samples = decode.SampledResponses(
    response=jnp.asarray(response),
    mask=jnp.asarray(mask),
    log_probs=jnp.asarray(read["old"], jnp.float32) * mask,
  )
  return Case(
    samples=samples,
    score=generator.normal(size=(B, N)),
    tables=tables,
    **read,
    values=values,
    old_values=old_values,
    lengths=lengths,
  )


def found_loss(case, **options):
  """The library's loss at the new policy, after a rollout of the old one."""
  config = algorithms.RLConfig(
    samples_per_prompt=N, sampling=SAMPLING, **options
  )
  finish = rollout.make_finish(POLICY, VALUE, config=config, eos_ids=(EOS,))
  batch = finish(
    {"value": jnp.asarray(case.old_values, jnp.float32)},
    case.tables["ref"],
    world.prompt_batch(B),
    case.samples,
    jnp.asarray(case.score, jnp.float32),
  )
  loss = update.make_loss(POLICY, VALUE, config)
  params = {
    "policy": case.tables["new"],
    "value": jnp.asarray(case.values, jnp.float32),
  }
  return float(loss(params, batch, None)[0].mean())


def k3(p, q):
  return np.exp(q - p) - 1 - (q - p)


def clipped(ratio, advantage, low, high):
  return min(ratio * advantage, np.clip(ratio, 1 - low, 1 + high) * advantage)


def normalised(case, i, j):
  """GRPO's advantage, with PyTorch's standard deviation."""
  group = case.score[i]
  return (group[j] - group.mean()) / (group.std(ddof=1) + 1e-4)


def token_term(case, i, j, t, advantage, low, high, beta=0.0):
  ratio = np.exp(case.new[i, j, t] - case.old[i, j, t])
  term = -clipped(ratio, advantage, low, high)
  return term + beta * k3(case.new[i, j, t], case.ref[i, j, t])


def test_grpo_is_its_formula(case):
  """arXiv:2402.03300, eq. 3."""

  def response(i, j):
    a = normalised(case, i, j)
    steps = range(case.lengths[i, j])
    return np.mean(
      [token_term(case, i, j, t, a, 0.2, 0.2, 0.04) for t in steps]
    )

  expected = case.mean_over_responses(response)
  assert found_loss(case, algorithm="grpo") == pytest.approx(expected, rel=1e-4)


def test_dr_grpo_is_its_formula(case):
  """arXiv:2503.20783, section 3.2."""

  def response(i, j):
    a = case.score[i, j] - case.score[i].mean()
    steps = range(case.lengths[i, j])
    return sum(token_term(case, i, j, t, a, 0.2, 0.2) for t in steps) / R

  expected = case.mean_over_responses(response)
  found = found_loss(case, algorithm="dr_grpo")
  assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("masked", [False, True])
def test_dapo_is_its_formula(case, masked):
  """arXiv:2503.14476, eq. 8, over all tokens of the batch."""
  terms = [
    token_term(case, i, j, t, normalised(case, i, j), 0.2, 0.28)
    for i in range(B)
    for j in range(N)
    for t in range(case.lengths[i, j])
    if not masked or case.lengths[i, j] < R
  ]
  found = found_loss(case, algorithm="dapo", mask_unfinished=masked)
  assert found == pytest.approx(np.mean(terms), rel=1e-4)


def test_gspo_is_its_formula(case):
  """arXiv:2507.18071, eqs. 5 and 7."""

  def response(i, j):
    own = slice(0, case.lengths[i, j])
    ratio = np.exp(np.mean(case.new[i, j, own] - case.old[i, j, own]))
    return -clipped(ratio, normalised(case, i, j), 3e-4, 4e-4)

  expected = case.mean_over_responses(response)
  assert found_loss(case, algorithm="gspo") == pytest.approx(expected, rel=1e-4)


def test_rloo_is_its_formula(case):
  """arXiv:2402.14740, eqs. 1 and 5: the KL is part of the reward."""
  kl = np.array(
    [
      [
        np.sum((case.old - case.ref)[i, j, : case.lengths[i, j]])
        for j in range(N)
      ]
      for i in range(B)
    ]
  )
  reward = case.score - 0.05 * kl

  def response(i, j):
    others = np.delete(reward[i], j).mean()
    log_prob = np.sum(case.new[i, j, : case.lengths[i, j]])
    return -(reward[i, j] - others) * log_prob

  expected = case.mean_over_responses(response)
  assert found_loss(case, algorithm="rloo") == pytest.approx(expected, rel=1e-4)


def test_ppo_is_its_formula(case):
  """GAE, whitening, both clips, and 0.1 times half of the value's loss."""
  tokens = []
  for i in range(B):
    for j in range(N):
      length, later = case.lengths[i, j], 0.0
      rewards = -0.05 * (case.old - case.ref)[i, j, :length]
      rewards[-1] += case.score[i, j]
      old_values = np.append(case.old_values[i, j, :length], 0.0)
      for t in reversed(range(length)):
        delta = rewards[t] + old_values[t + 1] - old_values[t]
        later = delta + 0.95 * later
        tokens.append((i, j, t, later))
  mean = np.mean([a for *_, a in tokens])
  std = np.sqrt(np.var([a for *_, a in tokens], ddof=1) + 1e-8)
  terms = []
  for i, j, t, advantage in tokens:
    old, new = case.old_values[i, j, t], case.values[i, j, t]
    target, near = advantage + old, old + np.clip(new - old, -0.2, 0.2)
    worse = max((new - target) ** 2, (near - target) ** 2)
    policy = token_term(case, i, j, t, (advantage - mean) / std, 0.2, 0.2)
    terms.append(policy + 0.1 * 0.5 * worse)
  found = found_loss(case, algorithm="ppo")
  assert found == pytest.approx(np.mean(terms), rel=1e-4)


DEPARTURES = {
  "kl_in": ("grpo", {"kl_in": "reward"}),
  "kl_estimator": ("grpo", {"kl_estimator": "k2"}),
  "beta": ("dapo", {"beta": 0.1}),
  "loss_mean": ("grpo", {"loss_mean": "token"}),
  "constant": ("grpo", {"loss_mean": "constant"}),
  "high": ("grpo", {"ratio": objective.RatioConfig(high=0.4)}),
  "low": ("grpo", {"ratio": objective.RatioConfig(low=0.4)}),
  "dual": ("grpo", {"ratio": objective.RatioConfig(dual=1.01)}),
  "level": ("grpo", {"ratio": objective.RatioConfig(level="sequence")}),
  "whiten": ("ppo", {"value": objective.ValueConfig(whiten=False)}),
  "value_clip": ("ppo", {"value": objective.ValueConfig(clip=0.0)}),
  "loss_weight": ("ppo", {"value": objective.ValueConfig(loss_weight=1.0)}),
  "gamma": ("ppo", {"value": objective.ValueConfig(gamma=0.5)}),
  "gae_lambda": ("ppo", {"value": objective.ValueConfig(gae_lambda=0.5)}),
  "score_weight": ("ppo", {"weight_score_by_one_minus_beta": True}),
  "mask_unfinished": ("gspo", {"mask_unfinished": True}),
}


@pytest.mark.parametrize("name", sorted(DEPARTURES))
def test_an_option_departs_from_the_preset(case, name):
  algorithm, options = DEPARTURES[name]
  plain = found_loss(case, algorithm=algorithm)
  other = found_loss(case, algorithm=algorithm, **options)
  assert abs(plain - other) > 1e-5


def test_a_kl_of_whole_responses_in_the_loss(case):
  options = {"algorithm": "rloo", "kl_in": "loss", "beta": 0.3}
  found = found_loss(case, kl_estimator="k2_response", **options)
  plain = found_loss(case, **{**options, "beta": 0.0})

  def kl(i, j):
    own = slice(0, case.lengths[i, j])
    return 0.5 * np.sum((case.new - case.ref)[i, j, own]) ** 2

  expected = 0.3 * case.mean_over_responses(kl)
  assert found - plain == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_the_correction_weighs_the_terms_of_the_policy(case, level):
  """Samples of one policy, trained as those of another."""
  config = algorithms.RLConfig(
    algorithm="rloo",
    samples_per_prompt=N,
    beta=0.0,
    sampling=SAMPLING,
    ratio=objective.RatioConfig(
      correction="truncate", correction_level=level, limit=1.5
    ),
  )
  finish = rollout.make_finish(
    POLICY, None, config=config, eos_ids=(EOS,), rereads=True
  )
  batch = finish(
    {"policy": case.tables["new"]},
    case.tables["ref"],
    world.prompt_batch(B),
    case.samples,
    jnp.asarray(case.score, jnp.float32),
  )
  loss = update.make_loss(POLICY, None, config)
  found = loss({"policy": case.tables["new"]}, batch, None)[0].mean()
  metrics = rollout.rollout_metrics(batch)
  gap = case.new - case.old

  def response(i, j):
    own = slice(0, case.lengths[i, j])
    weight = np.exp(gap[i, j, own])
    if level == "sequence":
      weight = np.exp(np.sum(gap[i, j, own]))
    weight = np.minimum(weight, 1.5)
    advantage = case.score[i, j] - np.delete(case.score[i], j).mean()
    return -advantage * np.sum(weight * case.new[i, j, own])

  expected = case.mean_over_responses(response)
  assert float(found) == pytest.approx(expected, rel=1e-4)
  real = gap[np.asarray(case.samples.mask) > 0]
  values = {name: float(x.mean()) for name, x in metrics.items()}
  ratio = np.exp(real)
  assert values["mismatch"] == pytest.approx(np.abs(real).mean(), rel=1e-4)
  assert values["mismatch_largest"] == pytest.approx(
    np.abs(real).max(), rel=1e-4
  )
  outside = np.mean((ratio < 0.9) | (ratio > 1.1))
  assert values["mismatch_share"] == pytest.approx(outside)
  assert values["mismatch_k3"] == pytest.approx(
    np.mean(ratio - 1 - real), rel=1e-3
  )


def test_scoring_reads_the_table(case):
  """The stand-in model has the log-probs that the twins use."""
  texts = scoring.join_groups(
    world.prompt_batch(B), case.samples.response, case.samples.mask
  )
  found = scoring.response_log_probs(POLICY, case.tables["new"], texts)
  np.testing.assert_allclose(found, case.new, rtol=1e-4, atol=1e-5)
