# SPDX-License-Identifier: Apache-2.0
"""FLOPs and bytes of passes over a decoder, as phases of a roofline.

Masked positions are not counted. Activations and parameters are float32.
"""

from __future__ import annotations

from rlaif_jax.bench import roofline
from rlaif_jax.models import decoder


def block_params(config: decoder.DecoderConfig) -> int:
  """Returns the number of parameters in the matrices of all layers."""
  heads = 2 * config.num_heads + 2 * config.num_kv_heads
  own = config.width * (heads * config.head_dim + 3 * config.mlp_dim)
  return config.num_layers * own


def flops(
  config: decoder.DecoderConfig,
  *,
  columns: float,
  attended: float,
  attended_last: float,
  states: float,
  logits: float,
) -> float:
  """Returns the FLOPs of one forward pass.

  The last layer computes only keys and values of a token whose final state is
  not read.

  Args:
    config: the model.
    columns: number of tokens.
    attended: number of (query, key) pairs in each layer but the last.
    attended_last: the same number in the last layer.
    states: number of tokens whose final state is read.
    logits: number of tokens that get logits.
  """
  heads = config.num_heads * config.head_dim
  last = config.width * (2 * heads + 3 * config.mlp_dim)
  layers = (config.num_layers - 1) * attended + attended_last
  return (
    2 * block_params(config) * columns
    - 2 * last * (columns - states)
    + 4 * heads * layers
    + 2 * config.vocab_size * config.width * logits
  )


def forward(
  config: decoder.DecoderConfig,
  *,
  name: str,
  rows: int,
  columns: int,
  logits: int = 0,
  cached: int = 0,
  states: int | None = None,
  times: float = 1.0,
) -> roofline.Phase:
  """Returns a forward pass over [rows, columns] tokens.

  Args:
    config: the model.
    name: name of the phase.
    rows: number of texts.
    columns: tokens of each text.
    logits: last columns of each row that get logits.
    cached: tokens of each row that are in the cache.
    states: last columns of each row whose final states are read; None: all.
    times: number of passes.
  """
  states = columns if states is None else states

  def attended(queries):  # by the last tokens of a row
    return queries * (cached + columns) - queries * (queries - 1) / 2

  total = flops(
    config,
    columns=rows * columns,
    attended=rows * attended(columns),
    attended_last=rows * attended(states),
    states=rows * states,
    logits=rows * logits,
  )
  cache = 2 * config.num_layers * config.num_kv_heads * config.head_dim
  numbers = block_params(config) + rows * cache * cached
  numbers += config.vocab_size * config.width if logits else 0
  return roofline.Phase(name=name, flops=total, bytes=4 * numbers, times=times)


def group_pass(
  config: decoder.DecoderConfig,
  *,
  name: str,
  columns: float,
  attended: float,
  states: float,
  logits: float,
  passes: int,
) -> roofline.Phase:
  """Returns a pass over prompts with several responses; see `flops`.

  `passes` is 1 for a forward pass and 3 for a forward and a backward pass.
  """
  total = flops(
    config,
    columns=columns,
    attended=attended,
    attended_last=attended,
    states=states,
    logits=logits,
  )
  return roofline.Phase(
    name=name,
    flops=passes * total,
    bytes=4.0 * passes * block_params(config),
  )


def adamw(
  config: decoder.DecoderConfig, name: str = "optimizer"
) -> roofline.Phase:
  """Returns an update: AdamW reads gradient, parameter and two moments, and
  writes the last three."""
  numbers = block_params(config) + config.vocab_size * config.width
  return roofline.Phase(
    name=name, flops=12.0 * numbers, bytes=4.0 * 7 * numbers
  )
