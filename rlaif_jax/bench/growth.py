# SPDX-License-Identifier: Apache-2.0
"""How time and memory grow with the work: python -m rlaif_jax.bench.growth.

Microseconds a token of sampling and of an update, against rows, length, layers
and vocabulary, one of them changed at a time; beside them what the roofline
would take, so that what grows faster than the arithmetic is seen. Then log-
probs of large vocabularies, with all logits at once and in parts: memory as
compiled, and seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import json
import pathlib
import statistics
from typing import Any, Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp

from rlaif_jax.bench import pairs as pairs_lib
from rlaif_jax.bench import roofline
from rlaif_jax.bench import rollout
from rlaif_jax.bench import workload
from rlaif_jax.core import batches
from rlaif_jax.core import masked
from rlaif_jax.engine import decode
from rlaif_jax.engine import scoring
from rlaif_jax.evaluation import figures
from rlaif_jax.models import architectures
from rlaif_jax.models import decoder

# What is changed, one at a time; of a length, half is the prompt.
AXES = {
  "rows": (4, 16, 64),
  "length": (64, 128, 256, 512),
  "layers": (2, 4, 8, 16),
  "vocabulary": (8_000, 32_000, 128_000),
}
VOCABULARIES = (32_000, 128_000, 262_144)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
  """Rows of texts of a length, read by a model of some size."""

  rows: int = 8
  length: int = 128
  model: decoder.DecoderConfig = workload.MODEL

  def at(self, axis: str, value: int) -> Point:
    """With another number of what the axis counts."""
    sizes = {"layers": "num_layers", "vocabulary": "vocab_size"}
    if axis not in sizes:
      return dataclasses.replace(self, **{axis: value})
    model = dataclasses.replace(self.model, **{sizes[axis]: value})
    return dataclasses.replace(self, model=model)

  @property
  def half(self) -> int:
    return self.length // 2

  def texts(self) -> Any:
    """[rows, length] tokens."""
    return workload.tokens(
      self.rows, self.length, vocab_size=self.model.vocab_size
    )


def sampling(point: Point) -> tuple[Any, Sequence[roofline.Phase]]:
  """A call that samples half of each text after the other half."""
  model, params = workload.build(point.model)
  prompts = jnp.asarray(point.texts()[:, : point.half])
  generate = jax.jit(
    functools.partial(
      decode.generate,
      model,
      config=decode.SamplingConfig(max_tokens=point.half, temperature=0.9),
      eos_ids=(workload.NEVER,),
    )
  )
  keys = decode.row_keys(jax.random.key(0), jnp.arange(point.rows))
  given = (params, prompts, jnp.ones(prompts.shape, bool), keys)
  phases = rollout.phases(point.model, point.rows, point.half, point.half)
  return lambda: generate(*given).response, phases


def update(point: Point) -> tuple[Any, Sequence[roofline.Phase]]:
  """A call that makes one AdamW update on the second half of each text."""
  model = architectures.language(point.model)
  texts = point.texts()
  prompt, response = texts[:, : point.half], texts[:, None, point.half :]
  batch = batches.GroupBatch(
    prompt=prompt,
    prompt_valid=prompt >= 0,
    response=response,
    response_valid=response >= 0,
  )

  def loss(params, batch, key):
    del key
    log_probs = scoring.group_log_probs(model, params, batch)
    return masked.weighted_sum(-log_probs, jnp.ones_like(log_probs)), {}

  call = pairs_lib.timed_update(model.init, loss, batch)
  own = point.rows * response.shape[2]
  phase = pairs_lib.branch_pass(
    point.model,
    name="update",
    columns=point.rows * point.length,
    attended=point.rows * point.length * (point.length + 1) / 2,
    read_out=own,
    logits=own,
    passes=3,
  )
  return call, [phase, pairs_lib.optimizer_phase(point.model)]


WORKS = {"sampling": sampling, "update": update}


def measured(
  point: Point, work: str, machine: roofline.Machine, repetitions: int
) -> dict[str, float]:
  """Microseconds a token that is sampled, or that an update reads."""
  call, phases = WORKS[work](point)
  seconds = statistics.median(roofline.seconds_of(call, repetitions))
  least = sum(phase.seconds(machine) for phase in phases)
  tokens = point.rows * (point.half if work == "sampling" else point.length)
  return {
    "us_per_token": round(1e6 * seconds / tokens, 2),
    "roofline_us_per_token": round(1e6 * least / tokens, 2),
    "share": round(least / seconds, 3),
  }


def grow(
  base: Point,
  axes: Mapping[str, Sequence[int]],
  machine: roofline.Machine,
  *,
  repetitions: int,
) -> Iterator[dict[str, Any]]:
  """A row for each work, axis and value."""
  for work in WORKS:
    for axis, values in axes.items():
      for value in values:
        found = measured(base.at(axis, value), work, machine, repetitions)
        yield {"work": work, "axis": axis, "value": value, **found}


@contextlib.contextmanager
def logits_at_once(count: int) -> Iterator[None]:
  """So many logits exist at a time, in what is traced meanwhile."""
  usual = scoring.LOGITS_AT_ONCE
  scoring.LOGITS_AT_ONCE = count
  try:
    yield
  finally:
    scoring.LOGITS_AT_ONCE = usual


def head(vocabulary: int, *, rows: int, columns: int, width: int) -> Any:
  """The gradient of log-probs for states and table, and its arguments."""
  config = dataclasses.replace(
    workload.MODEL,
    vocab_size=vocabulary,
    width=width,
    num_layers=1,
    mlp_dim=8,
    num_heads=1,
    num_kv_heads=1,
  )
  model, params = workload.build(config)
  targets = workload.tokens(rows, columns, vocab_size=vocabulary)
  hidden = jax.random.normal(jax.random.key(0), (*targets.shape, width))

  def total(params, hidden):
    return -jnp.sum(scoring.target_log_probs(model, params, hidden, targets))

  return jax.grad(total, argnums=(0, 1)), (params, hidden)


def in_parts(
  vocabulary: int,
  *,
  rows: int = 16,
  columns: int = 64,
  width: int = workload.MODEL.width,
  at_once: int = scoring.LOGITS_AT_ONCE,
  repetitions: int = 3,
) -> dict[str, Any]:
  """Log-probs and their gradient, all logits at once and in parts in turn."""
  calls, memory = {}, {}
  for name, count in (("whole", 2**62), ("parts", at_once)):
    with logits_at_once(count):
      gradient, given = head(
        vocabulary, rows=rows, columns=columns, width=width
      )
      compiled = jax.jit(gradient).lower(*given).compile()
    calls[name] = functools.partial(compiled, *given)
    memory[name] = compiled.memory_analysis().temp_size_in_bytes
  seconds = {name: [] for name in calls}
  for _ in range(repetitions):
    for name, call in calls.items():
      seconds[name] += roofline.seconds_of(call, 1)
  took = {name: statistics.median(times) for name, times in seconds.items()}
  return {
    "work": "log-probs",
    "vocabulary": vocabulary,
    "tokens": rows * columns,
    "whole_mb": round(memory["whole"] / 2**20, 1),
    "parts_mb": round(memory["parts"] / 2**20, 1),
    "whole_s": round(took["whole"], 4),
    "parts_s": round(took["parts"], 4),
    "time_ratio": round(took["parts"] / took["whole"], 3),
  }


def run(
  base: Point = Point(),
  axes: Mapping[str, Sequence[int]] = AXES,
  vocabularies: Sequence[int] = VOCABULARIES,
  *,
  repetitions: int = 3,
  at_once: int = scoring.LOGITS_AT_ONCE,
  svg: str = "",
) -> list[dict[str, Any]]:
  """All rows, each printed as a line of JSON; draws them into a file `svg`."""
  machine = roofline.measure()
  rows = []
  for row in grow(base, axes, machine, repetitions=repetitions):
    rows.append(row)
    print(json.dumps({"bench": "growth", **row}), flush=True)
  for vocabulary in vocabularies:
    row = in_parts(vocabulary, at_once=at_once, repetitions=repetitions)
    print(json.dumps({"bench": "growth", **row}), flush=True)
    rows.append(row)
  if svg:
    drawn = figures.growth([row for row in rows if "axis" in row])
    pathlib.Path(svg).write_text(drawn)
  return rows


def main(arguments: Sequence[str] | None = None) -> None:
  """The command line."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--repetitions", type=int, default=3)
  parser.add_argument("--svg", default="", help="file to draw into")
  parser.add_argument(
    "--only", choices=("growth", "log-probs"), help="one of the two"
  )
  parser.add_argument(
    "--logits_at_once", type=int, default=scoring.LOGITS_AT_ONCE
  )
  given = parser.parse_args(arguments)
  run(
    axes={} if given.only == "log-probs" else AXES,
    vocabularies=() if given.only == "growth" else VOCABULARIES,
    repetitions=given.repetitions,
    at_once=given.logits_at_once,
    svg=given.svg,
  )


if __name__ == "__main__":
  main()
