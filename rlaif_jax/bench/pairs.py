# SPDX-License-Identifier: Apache-2.0
"""Pairs for the benches of reward and DPO updates, and what an update costs."""

from __future__ import annotations

import argparse
from typing import Any, Callable

import jax
import numpy as np

from rlaif_jax.bench import roofline
from rlaif_jax.bench import workload
from rlaif_jax.core import batches
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
  """Pairs of full length, or of lengths that are uniform up to it."""
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


def packed(pairs: batches.PairBatch) -> batches.PairBatch:
  """Packs pairs as the training jobs do."""
  shape = packing.row_shape(packing.lengths_of(pairs))
  return packing.pack_pairs(pairs, shape, multiple=1)


def arguments(description: str) -> argparse.ArgumentParser:
  """What the benches of pairs take."""
  parser = argparse.ArgumentParser(description=description)
  parser.add_argument("--pairs", type=int, default=8)
  parser.add_argument("--prompt", type=int, default=300)
  parser.add_argument("--response", type=int, default=40)
  parser.add_argument("--ragged", action="store_true")
  parser.add_argument("--padded", action="store_true")
  parser.add_argument("--repetitions", type=int, default=4)
  return parser


def timed_update(
  init: Callable[[jax.Array], Any], loss: Any, batch: Any
) -> Callable[[], Any]:
  """A call that makes one AdamW update and returns its metrics."""
  tx = optimizer_lib.make_optimizer(ADAMW)
  mesh = mesh_lib.make_mesh("data:-1", jax.devices()[:1])
  held = [step_lib.init_state(init, tx, jax.random.key(0), mesh)]
  step = step_lib.make_train_step(loss, tx)
  batch = mesh_lib.put_batch(mesh, batch)

  def call():
    held[0], metrics = step(held[0], batch, jax.random.key(0))
    return held[0].step, metrics

  return call


def update_phases(
  config: decoder.DecoderConfig,
  pairs: batches.PairBatch,
  *,
  with_logits: bool,
) -> list[roofline.Phase]:
  """Forward and backward of what has to be read, and the optimizer."""
  return [
    _pass(config, pairs, "update", with_logits=with_logits, passes=3),
    optimizer_phase(config),
  ]


def forward_phase(
  config: decoder.DecoderConfig, pairs: batches.PairBatch
) -> roofline.Phase:
  """Log-probs of both candidates."""
  return _pass(config, pairs, "reference", with_logits=True, passes=1)


def _pass(config, pairs, name, *, with_logits, passes) -> roofline.Phase:
  """A prompt is read once, padding never. The last layer's queries and MLP
  are needed where states are read out alone."""
  lengths = packing.lengths_of(pairs)
  prompt, responses = lengths.prompt.sum(), lengths.responses.sum()
  read_out = responses if with_logits else 2 * len(lengths.prompt)
  return branch_pass(
    config,
    name=name,
    columns=float(prompt + responses),
    attended=float(
      np.sum(lengths.prompt * (lengths.prompt + 1) / 2)
      + np.sum(lengths.responses * lengths.prompt)
      + np.sum(_own(pairs))
    ),
    read_out=float(read_out),
    logits=float(responses) if with_logits else 0.0,
    passes=passes,
  )


def _own(pairs: batches.PairBatch) -> np.ndarray:
  """Pairs of columns within responses that see each other."""
  n = np.sum(pairs.texts.response_valid, axis=2)
  return np.sum(n * (n + 1) / 2, axis=1)


def branch_pass(
  config: decoder.DecoderConfig,
  *,
  name: str,
  columns: float,
  attended: float,
  read_out: float,
  logits: float,
  passes: int,
) -> roofline.Phase:
  """One pass over rows that branch: `passes` 1 is forward, 3 with backward.

  Args:
    config: the model.
    name: of the phase.
    columns: tokens that are read.
    attended: pairs of a token and one that it sees.
    read_out: columns whose final state is used.
    logits: columns that get logits.
    passes: forward passes' worth of work.
  """
  heads = config.num_heads * config.head_dim
  asking = config.width * (2 * heads + 3 * config.mlp_dim)
  numbers = workload.block_numbers(config)
  head = config.vocab_size * config.width
  flops = (
    2 * numbers * columns
    - 2 * asking * (columns - read_out)
    + 4 * config.num_layers * heads * attended
    + 2 * head * logits
  )
  return roofline.Phase(
    name=name, flops=passes * flops, bytes=4.0 * passes * numbers
  )


def optimizer_phase(
  config: decoder.DecoderConfig, name: str = "optimizer"
) -> roofline.Phase:
  """AdamW reads gradient, parameter and two moments, and writes three."""
  numbers = workload.block_numbers(config) + config.vocab_size * config.width
  return roofline.Phase(
    name=name, flops=12.0 * numbers, bytes=4.0 * 7 * numbers
  )
