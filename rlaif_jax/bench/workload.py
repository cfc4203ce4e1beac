# SPDX-License-Identifier: Apache-2.0
"""The work on which libraries are compared: one small Llama, fixed sizes.

Weights and texts are random; both cost what trained ones cost.
"""

from __future__ import annotations

import json
import statistics
from typing import Any, Callable, Mapping, Sequence

import flax.linen as nn
import jax
import numpy as np

from rlaif_jax.bench import roofline
from rlaif_jax.models import architectures
from rlaif_jax.models import decoder

# 43.7M parameters.
MODEL = decoder.DecoderConfig(
  vocab_size=32_000,
  width=512,
  num_layers=8,
  num_heads=8,
  num_kv_heads=8,
  head_dim=64,
  mlp_dim=1536,
  max_length=1024,
)

# An end token that no model draws: all responses have the full length.
NEVER = -1


def build(config: decoder.DecoderConfig = MODEL, seed: int = 0) -> Any:
  """(functions of the language model, its unboxed parameters)."""
  functions = architectures.language(config)
  params = nn.unbox(jax.jit(functions.init)(jax.random.key(seed)))
  return functions, params


def tokens(
  rows: int, columns: int, *, vocab_size: int = MODEL.vocab_size, seed: int = 0
) -> np.ndarray:
  """[rows, columns] random int32 tokens, none of them special."""
  generator = np.random.default_rng(seed)
  return generator.integers(3, vocab_size, (rows, columns)).astype(np.int32)


def block_numbers(config: decoder.DecoderConfig) -> int:
  """Numbers in the matrices of all layers."""
  heads = 2 * config.num_heads + 2 * config.num_kv_heads
  own = config.width * (heads * config.head_dim + 3 * config.mlp_dim)
  return config.num_layers * own


def forward(
  config: decoder.DecoderConfig,
  *,
  name: str,
  rows: int,
  columns: int,
  logits: int = 0,
  cached: int = 0,
  asked: int | None = None,
  times: float = 1.0,
) -> roofline.Phase:
  """One float32 forward of [rows, columns] tokens, what is masked not counted.

  Args:
    config: the model.
    name: of the phase.
    rows: texts.
    columns: tokens of each that are read.
    logits: columns of each row that get logits.
    cached: tokens of each row that were read before.
    asked: last columns of each row whose states are read; of the others the
      last layer needs keys and values alone. None: all.
    times: how often it is done.
  """
  asked = columns if asked is None else asked

  def attended(queries):  # by the last ones of all columns
    return queries * (cached + columns) - queries * (queries - 1) / 2

  layers = config.num_layers
  attention = 4 * config.num_heads * config.head_dim
  head = config.vocab_size * config.width
  kept = 2 * config.width * config.num_kv_heads * config.head_dim
  spared = block_numbers(config) // layers - kept
  flops = rows * (
    2 * (block_numbers(config) * columns - spared * (columns - asked))
    + attention * ((layers - 1) * attended(columns) + attended(asked))
    + 2 * head * logits
  )
  state = 2 * config.num_layers * config.num_kv_heads * config.head_dim
  numbers = block_numbers(config) + (head if logits else 0)
  numbers += rows * state * cached
  return roofline.Phase(name=name, flops=flops, bytes=4 * numbers, times=times)


def report(
  name: str,
  unit: str,
  amount: float,
  call: Callable[[], Any],
  phases: Sequence[roofline.Phase],
  *,
  repetitions: int = 3,
  extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
  """Times the call, measures the machine and prints one line of JSON.

  Args:
    name: of the work.
    unit: what is counted, as in "tokens" (a second).
    amount: how many of them a call makes.
    call: does the work once and returns arrays to wait for.
    phases: what it has to do.
    repetitions: timed calls, after one that compiles; the median counts.
    extra: more numbers for the line.
  """
  seconds = statistics.median(roofline.seconds_of(call, repetitions))
  limit = roofline.summary(phases, roofline.measure())
  line = {
    "bench": name,
    f"{unit}_per_s": round(amount / seconds, 3),
    "seconds": round(seconds, 6),
    f"roofline_{unit}_per_s": round(amount / limit["roofline_s"], 3),
    "share": round(limit["roofline_s"] / seconds, 3),
    **limit,
    **(extra or {}),
  }
  print(json.dumps(line), flush=True)
  return line
