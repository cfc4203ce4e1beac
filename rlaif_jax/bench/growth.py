# SPDX-License-Identifier: Apache-2.0
"""Scaling of time and memory: python -m rlaif_jax.bench.growth.

Reports microseconds per token of sampling and of an update against rows,
length, layers and vocabulary, one changed at a time, with the roofline. Then
reports memory and seconds of the log-probs of large vocabularies, with all
logits at once and in chunks.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import pathlib
import statistics
from typing import Callable, Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import PyTree
import numpy as np

from rlaif_jax.bench import model_flops
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

# Values of each axis; half of a length is the prompt.
AXES = {
  "rows": (4, 16, 64),
  "length": (64, 128, 256, 512),
  "layers": (2, 4, 8, 16),
  "vocabulary": (8_000, 32_000, 128_000),
}
VOCABULARIES = (32_000, 128_000, 262_144)

# A call, and its phases.
Work = tuple[Callable[[], PyTree], Sequence[roofline.Phase]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
  """Number and length of texts, and the model that reads them."""

  rows: int = 8
  length: int = 128
  model: decoder.DecoderConfig = workload.MODEL

  def with_value(self, axis: str, value: int) -> Point:
    """Returns the point with another value of an axis."""
    sizes = {"layers": "num_layers", "vocabulary": "vocab_size"}
    if axis not in sizes:
      return dataclasses.replace(self, **{axis: value})
    model = dataclasses.replace(self.model, **{sizes[axis]: value})
    return dataclasses.replace(self, model=model)

  @property
  def half(self) -> int:
    """Half of the length."""
    return self.length // 2

  def texts(self) -> np.ndarray:
    """Returns [rows, length] tokens."""
    return workload.tokens(
      self.rows, self.length, vocab_size=self.model.vocab_size
    )


def sampling(point: Point) -> Work:
  """Returns a call that samples the second half of each text."""
  model, params = workload.build(point.model)
  prompts = jnp.asarray(point.texts()[:, : point.half])
  generate = jax.jit(
    functools.partial(
      decode.generate,
      model,
      config=decode.SamplingConfig(max_tokens=point.half, temperature=0.9),
      eos_ids=(workload.NO_EOS,),
    )
  )
  keys = decode.row_keys(jax.random.key(0), jnp.arange(point.rows))
  given = (params, prompts, jnp.ones(prompts.shape, bool), keys)
  phases = rollout.phases(point.model, point.rows, point.half, point.half)
  return lambda: generate(*given).response, phases


def update(point: Point) -> Work:
  """Returns a call that makes an AdamW update on the second halves."""
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
    log_probs = scoring.response_log_probs(model, params, batch)
    return masked.weighted_sum(-log_probs, jnp.ones_like(log_probs)), {}

  call = pairs_lib.make_update(model.init, loss, batch)
  own = point.rows * response.shape[2]
  phase = model_flops.group_pass(
    point.model,
    name="update",
    columns=point.rows * point.length,
    attended=point.rows * point.length * (point.length + 1) / 2,
    states=own,
    logits=own,
    passes=3,
  )
  return call, [phase, model_flops.adamw(point.model)]


WORKS = {"sampling": sampling, "update": update}


def measure_point(
  point: Point, work: str, machine: roofline.Machine, repetitions: int
) -> dict[str, float]:
  """Returns microseconds per sampled token, or per token of an update."""
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
) -> Iterator[dict[str, object]]:
  """Yields a row for each work, axis and value."""
  for work in WORKS:
    for axis, values in axes.items():
      for value in values:
        found = measure_point(
          base.with_value(axis, value), work, machine, repetitions
        )
        yield {"work": work, "axis": axis, "value": value, **found}


@contextlib.contextmanager
def logits_at_once(count: int) -> Iterator[None]:
  """Sets the number of logits per chunk in programs traced meanwhile."""
  usual = scoring.LOGITS_AT_ONCE
  scoring.LOGITS_AT_ONCE = count
  try:
    yield
  finally:
    scoring.LOGITS_AT_ONCE = usual


def head(
  vocabulary: int, *, rows: int, columns: int, width: int
) -> tuple[Callable[..., PyTree], tuple[PyTree, jax.Array]]:
  """Returns the gradient of log-probs by table and states, and arguments."""
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


def compare_chunks(
  vocabulary: int,
  *,
  rows: int = 16,
  columns: int = 64,
  width: int = workload.MODEL.width,
  at_once: int = scoring.LOGITS_AT_ONCE,
  repetitions: int = 3,
) -> dict[str, object]:
  """Compares log-probs and their gradient with one chunk and with several."""
  calls, memory = {}, {}
  for name, count in (("whole", 2**62), ("parts", at_once)):
    with logits_at_once(count):
      gradient, given = head(
        vocabulary, rows=rows, columns=columns, width=width
      )
      compiled = jax.jit(gradient).lower(*given).compile()
    calls[name] = functools.partial(compiled, *given)
    memory[name] = compiled.memory_analysis().temp_size_in_bytes
  seconds = roofline.alternate(calls, repetitions)
  return {
    "work": "log-probs",
    "vocabulary": vocabulary,
    "tokens": rows * columns,
    "whole_mb": round(memory["whole"] / 2**20, 1),
    "parts_mb": round(memory["parts"] / 2**20, 1),
    "whole_s": round(seconds["whole"], 4),
    "parts_s": round(seconds["parts"], 4),
    "time_ratio": round(seconds["parts"] / seconds["whole"], 3),
  }


def run(
  base: Point = Point(),
  axes: Mapping[str, Sequence[int]] | None = None,
  vocabularies: Sequence[int] | None = None,
  *,
  only: str = "",
  repetitions: int = 3,
  logits_at_once: int = scoring.LOGITS_AT_ONCE,
  svg: str = "",
) -> list[dict[str, object]]:
  """Returns all rows; prints each as a line of JSON.

  Args:
    base: the point from which one axis at a time is changed.
    axes: values of each axis; None: AXES.
    vocabularies: vocabulary sizes of the log-probs; None: VOCABULARIES.
    only: "growth" or "log-probs" leaves out the other.
    repetitions: timed calls.
    logits_at_once: number of logits of a chunk.
    svg: file that receives a figure.

  Raises:
    ValueError: if `only` is unknown.
  """
  if only not in ("", "growth", "log-probs"):
    raise ValueError(f"only is {only!r}; use 'growth' or 'log-probs'")
  axes = AXES if axes is None else axes
  sizes = VOCABULARIES if vocabularies is None else vocabularies
  machine = roofline.measure()
  rows = []

  def add(row):
    rows.append(row)
    print(json.dumps({"bench": "growth", **row}), flush=True)

  if only != "log-probs":
    for row in grow(base, axes, machine, repetitions=repetitions):
      add(row)
  if only != "growth":
    for size in sizes:
      add(compare_chunks(size, at_once=logits_at_once, repetitions=repetitions))
  if svg:
    drawn = figures.growth([row for row in rows if "axis" in row])
    pathlib.Path(svg).write_text(drawn)
  return rows


if __name__ == "__main__":
  workload.main(run, __doc__)
