# SPDX-License-Identifier: Apache-2.0
"""One device and eight train to the same parameters, however split.

Every training, with both kinds of model: five updates on rows of unequal
lengths, in microbatches and without.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from rlaif_jax.core import compute as compute_lib
from rlaif_jax.core import batches
from rlaif_jax.dpo import model as dpo
from rlaif_jax.engine import decode
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.engine import optimizer
from rlaif_jax.engine import step
from rlaif_jax.labeling import llm_reward
from rlaif_jax.models import architectures
from rlaif_jax.models import t5
from rlaif_jax.reward import ensemble
from rlaif_jax.reward import model as reward_model
from rlaif_jax.sft import loss as sft_loss
from rlaif_jax.reward import scorers
from rlaif_jax.rl import algorithms
from rlaif_jax.rl import rollout
from rlaif_jax.rl import update as update_lib
from rlaif_jax.text import prompts as prompts_lib
from tests import testing

TOKENIZER = testing.CharTokenizer(bos=True)
VOCAB, ROWS, PROMPT, RESPONSE = 136, 8, 8, 4  # 131 tokens; a multiple of 8.
CONFIGS = {
  "decoder": testing.tiny_decoder(VOCAB, width=16, mlp_dim=32, num_layers=1),
  "t5": t5.T5Config(
    vocab_size=VOCAB,
    width=16,
    num_layers=1,
    num_decoder_layers=1,
    num_heads=2,
    head_dim=8,
    mlp_dim=32,
    max_length=512,
  ),
}


def texts(generator):
  """TokenBatch of unequal prompts and responses."""
  lengths = generator.integers(1, [[PROMPT], [RESPONSE]], (2, ROWS)) + 1
  prompt = np.arange(PROMPT)[None] >= PROMPT - lengths[0, :, None]
  response = np.arange(RESPONSE)[None] < lengths[1, :, None]
  valid = np.concatenate([prompt, response], axis=1)
  return batches.TokenBatch(
    tokens=generator.integers(3, 131, valid.shape).astype(np.int32),
    valid=valid,
    weights=response.astype(np.float32),
  )


def prompts_of(batch):
  prompt, valid = batch.tokens[:, :PROMPT], batch.valid[:, :PROMPT]
  return batches.PromptBatch(
    prompt=prompt,
    prompt_valid=valid,
    context=prompt,
    context_valid=valid,
    row=np.arange(ROWS, dtype=np.int32),
  )


def pairs(generator):
  """PairBatch whose candidates have the same prompts."""
  first, second = texts(generator), texts(generator)
  second.tokens[:, :PROMPT] = first.tokens[:, :PROMPT]
  second.valid[:, :PROMPT] = first.valid[:, :PROMPT]
  return testing.pair_batch(
    first=first,
    second=second,
    label=generator.random(ROWS).astype(np.float32),
    weight=np.ones(ROWS, np.float32),
  )


def referenced(generator):
  """Pairs with reference log-probs."""
  known = generator.uniform(-20, -10, (2, ROWS)).astype(np.float32)
  return pairs(generator).replace(ref_log_probs=known.T)


def members(generator):
  return ensemble.MemberPairs(pairs=pairs(generator), weights=None)


@dataclasses.dataclass
class Training:
  """A training setup; `batch(state, number)` may read the parameters.

  Trained parameters start as `init(key)` or as `start`. The loss reads
  `combine(trained, frozen)`.
  """

  init: Any
  loss: Any
  batch: Any
  start: Any = None
  frozen: Any = None
  combine: Any = None


def trainings(config, mesh):
  """name -> function that returns the Training."""
  options = architectures.ForwardOptions(
    activation_sharding=mesh_lib.activation_sharding(mesh)
  )
  language = architectures.language(config, options)
  scalar = architectures.scalar(config, options)

  def build(functions, seed):
    boxed = jax.eval_shape(functions.init, jax.random.key(0))
    shardings = mesh_lib.param_shardings(mesh, boxed)
    return jax.device_put(testing.build(functions, seed), shardings)

  def put(make):
    return lambda state, number: mesh_lib.put_batch(
      mesh, make(np.random.default_rng(number))
    )

  def learn(score, scorer_params):
    reference = build(language, 5)
    return reinforce(language, scalar, reference, score, scorer_params, mesh)

  def direct():
    template = prompts_lib.load("docstring_rating")
    by_labeler = llm_reward.labeler_scorer(
      language,
      TOKENIZER,
      parts=template.pointwise_parts(),
      options=template.options,
      chat=("", ""),
    )
    return learn(by_labeler.score, by_labeler.prepare(build(language, 4)))

  return {
    "sft": lambda: Training(
      language.init, sft_loss.make_loss(language, 0.5), put(texts)
    ),
    "reward": lambda: Training(
      scalar.init, reward_model.make_loss(scalar), put(pairs)
    ),
    "dpo": lambda: Training(
      language.init,
      dpo.make_loss(language, dpo.DPOConfig()),
      put(referenced),
    ),
    "heads": lambda: ensemble_of("heads", scalar, put(members), mesh),
    "lora": lambda: ensemble_of("lora", scalar, put(members), mesh),
    "policy": lambda: learn(scorers.reward_scorer(scalar), build(scalar, 3)),
    "direct": direct,
  }


def ensemble_of(kind, scalar, batch, mesh):
  """Heads learn with the trunk that they share, adapters while it stays."""
  config = ensemble.EnsembleConfig(kind=kind, members=2)
  shapes = ensemble.abstract_params(scalar, config, mesh)
  draw = jax.jit(
    lambda key: ensemble.init(scalar, config, key),
    out_shardings=jax.tree.map(lambda x: x.sharding, shapes),
  )
  start = draw(jax.random.key(6))
  training = Training(None, ensemble.make_loss(scalar, config), batch, start)
  if kind == "lora":
    training.start, training.frozen = start["members"], start["shared"]
    training.combine = lambda learned, frozen: {
      "members": learned,
      "shared": frozen,
    }
  return training


def reinforce(language, scalar, reference, score, scorer_params, mesh):
  sampling = decode.SamplingConfig(max_tokens=RESPONSE, temperature=0.9)
  rl = algorithms.RLConfig(sampling=sampling)
  # What samples is a copy that fsdp does not split.
  whole = compute_lib.Placement(rules=(("embed", ""),))
  collect = rollout.make_collect(
    language,
    scalar,
    score,
    config=rl,
    eos_ids=(3, 4),
    reshard=mesh_lib.make_reshard(language.init, mesh, whole),
  )
  frozen = {"reference": reference, "scorer": scorer_params}

  def collected(state, number):
    prompts = prompts_of(texts(np.random.default_rng(number)))
    prompts = mesh_lib.put_batch(mesh, prompts)
    return collect(state.params, frozen, prompts, jax.random.key(number))[0]

  return Training(
    lambda key: {"policy": language.init(key), "value": scalar.init(key)},
    update_lib.make_loss(language, scalar, rl),
    collected,
  )


def train(name, kind, text, devices, microbatches):
  mesh = mesh_lib.make_mesh(text, devices)
  training = trainings(CONFIGS[kind], mesh)[name]()
  tx = optimizer.make_optimizer(
    optimizer.OptimizerConfig(name="adamw", learning_rate=1e-3, clip_norm=1.0)
  )
  if training.start is None:
    state = step.init_state(training.init, tx, jax.random.key(0), mesh)
  else:
    state = step.state_from_params(training.start, tx, mesh)
  update = step.make_train_step(
    training.loss, tx, microbatches=microbatches, combine=training.combine
  )
  losses = []
  for number in range(5):
    batch = training.batch(state, number)
    key = jax.random.key(number)
    # What an update reads is on the devices before it starts.
    with jax.transfer_guard("disallow"):
      state, metrics = update(state, batch, key, training.frozen)
    losses.append(float(metrics["loss"].mean()))
  assert update.compiled._cache_size() == 1
  return jax.device_get(state.params), losses


@pytest.fixture(scope="module")
def alone():
  found = {}

  def get(name, kind):
    if (name, kind) not in found:
      found[name, kind] = train(name, kind, "data:1", jax.devices()[:1], 1)
    return found[name, kind]

  return get


MIXED = "data:2,fsdp:2,model:2"
LONG = "fsdp:2,sequence:2,model:2"  # Columns are split, too.


TRAININGS = ("sft", "reward", "dpo", "heads", "lora", "policy", "direct")
CASES = [
  ("decoder", "sft", "fsdp:8", 1),
  ("t5", "sft", LONG, 2),
  ("t5", "reward", MIXED, 2),
  ("decoder", "policy", MIXED, 2),
  ("decoder", "dpo", "data:4,model:2", 1),
  ("t5", "heads", "fsdp:8", 1),
  ("decoder", "lora", MIXED, 2),
]
if testing.IS_NIGHT:  # All of them; launch/nightly.sh.
  CASES = [
    (kind, name, text, microbatches)
    for kind in CONFIGS
    for name in TRAININGS
    for text, microbatches in (
      ("data:8", 1),
      ("fsdp:8", 1),
      ("data:4,model:2", 2),
      (MIXED, 2),
      (LONG, 1),
    )
  ]


@pytest.mark.parametrize("kind, name, text, microbatches", CASES)
def test_the_mesh_changes_nothing(alone, name, kind, text, microbatches):
  params, losses = train(name, kind, text, jax.devices()[:8], microbatches)
  expected, before = alone(name, kind)
  np.testing.assert_allclose(losses, before, atol=1e-5)
  for tree in (params, expected):
    # Its gradient is zero, and Adam divides what rounding leaves by itself.
    if name in ("reward", "heads", "lora"):
      tree.get("members", tree)["head"].pop("bias", None)
  for a, b in zip(
    jax.tree.leaves(params), jax.tree.leaves(expected), strict=True
  ):
    np.testing.assert_allclose(a, b, atol=1e-5)
