# SPDX-License-Identifier: Apache-2.0
"""Random pairs, updates on them, and the roofline of an update."""

from __future__ import annotations

from typing import Callable

import jax
from jaxtyping import PyTree
import numpy as np

from rlaif_jax.bench import model_flops
from rlaif_jax.bench import roofline
from rlaif_jax.bench import workload
from rlaif_jax.core import batches
from rlaif_jax.core import protocols
from rlaif_jax.data import packing
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.engine import optimizer as optimizer_lib
from rlaif_jax.engine import step as step_lib
from rlaif_jax.models import decoder

ADAMW = optimizer_lib.OptimizerConfig(name="adamw", learning_rate=1e-5)


def random_pairs(
  count: int,
  prompt: int,
  response: int,
  *,
  ragged: bool = False,
  vocab_size: int = workload.MODEL.vocab_size,
  seed: int = 0,
) -> batches.PairBatch:
  """Returns pairs of full length, or of uniform random lengths (`ragged`)."""
  generator = np.random.default_rng(seed)
  begin = workload.tokens(count, prompt, vocab_size=vocab_size, seed=seed)
  shortest = (max(prompt // 8, 1), 1) if ragged else (prompt, response)
  length = generator.integers(shortest[0], prompt + 1, (count, 1))
  begin_valid = np.arange(prompt)[None] >= prompt - length

  def side(number):
    own = workload.tokens(
      count, response, vocab_size=vocab_size, seed=seed + number
    )
    length = generator.integers(shortest[1], response + 1, (count, 1))
    valid = np.arange(response)[None] < length
    return own, valid

  responses, valid = zip(side(1), side(2), strict=True)
  return batches.PairBatch(
    texts=batches.GroupBatch(
      prompt=begin,
      prompt_valid=begin_valid,
      response=np.stack(responses, axis=1),
      response_valid=np.stack(valid, axis=1),
    ),
    label=generator.random(count).astype(np.float32),
    weight=np.ones(count, np.float32),
  )


def pack(pairs: batches.PairBatch) -> batches.PairBatch:
  """Packs pairs as the training jobs do."""
  shape = packing.row_shape(packing.lengths_of(pairs))
  return packing.pack_pairs(pairs, shape, multiple=1)


def make_update(
  init: Callable[[jax.Array], PyTree],
  loss: protocols.LossFn,
  batch: PyTree,
) -> Callable[[], PyTree]:
  """Returns a function that makes one AdamW update."""
  tx = optimizer_lib.make_optimizer(ADAMW)
  mesh = mesh_lib.make_mesh("data:-1", jax.devices()[:1])
  state = [step_lib.init_state(init, tx, jax.random.key(0), mesh)]
  step = step_lib.make_train_step(loss, tx)
  batch = mesh_lib.put_batch(mesh, batch)

  def call():
    state[0], metrics = step(state[0], batch, jax.random.key(0))
    return state[0].step, metrics

  return call


def update_phases(
  config: decoder.DecoderConfig,
  pairs: batches.PairBatch,
  *,
  with_logits: bool,
) -> list[roofline.Phase]:
  """Returns a forward and a backward pass over the pairs, and the optimizer."""
  return [
    _pass(config, pairs, "update", with_logits=with_logits, passes=3),
    model_flops.adamw(config),
  ]


def forward_phase(
  config: decoder.DecoderConfig, pairs: batches.PairBatch
) -> roofline.Phase:
  """Returns the log-probs of both responses."""
  return _pass(config, pairs, "reference", with_logits=True, passes=1)


def _pass(config, pairs, name, *, with_logits, passes) -> roofline.Phase:
  """Counts each prompt once, and no padding."""
  lengths = packing.lengths_of(pairs)
  prompt, responses = lengths.prompt.sum(), lengths.responses.sum()
  states = responses if with_logits else 2 * len(lengths.prompt)
  return model_flops.group_pass(
    config,
    name=name,
    columns=float(prompt + responses),
    attended=float(
      np.sum(lengths.prompt * (lengths.prompt + 1) / 2)
      + np.sum(lengths.responses * lengths.prompt)
      + np.sum(_own(pairs))
    ),
    states=float(states),
    logits=float(responses) if with_logits else 0.0,
    passes=passes,
  )


def _own(pairs: batches.PairBatch) -> np.ndarray:
  """(query, key) pairs within responses."""
  n = np.sum(pairs.texts.response_valid, axis=2)
  return np.sum(n * (n + 1) / 2, axis=1)
