# SPDX-License-Identifier: Apache-2.0
"""Tokens a second of sampling: python -m rlaif_jax.bench.rollout.

With --ragged, of responses whose lengths differ much: slots that are refilled
against batches that wait for their longest.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
from typing import Any, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from rlaif_jax.bench import roofline
from rlaif_jax.bench import workload
from rlaif_jax.engine import decode
from rlaif_jax.models import decoder


def phases(
  config: decoder.DecoderConfig, rows: int, prompt: int, new: int
) -> list[roofline.Phase]:
  """Prompts once, then one token after another."""
  first = workload.forward(
    config, name="prompts", rows=rows, columns=prompt, logits=1, asked=1
  )
  # The mean token reads half of the new columns.
  token = workload.forward(
    config,
    name="tokens",
    rows=rows,
    columns=1,
    logits=1,
    cached=prompt + new // 2,
    times=new - 1,
  )
  return [first, token]


def run(
  rows: int = 16,
  prompt: int = 128,
  new: int = 64,
  *,
  repetitions: int = 3,
  model_config: decoder.DecoderConfig = workload.MODEL,
) -> dict[str, Any]:
  """Samples `new` tokens after each prompt, no end token among them."""
  model, params = workload.build(model_config)
  texts = jnp.asarray(
    workload.tokens(rows, prompt, vocab_size=model_config.vocab_size)
  )
  valid = jnp.ones(texts.shape, bool)
  keys = decode.row_keys(jax.random.key(0), jnp.arange(rows))
  config = decode.SamplingConfig(max_tokens=new, temperature=0.9)
  generate = jax.jit(
    functools.partial(
      decode.generate, model, config=config, eos_ids=(workload.NEVER,)
    )
  )
  return workload.report(
    "rollout",
    "tokens",
    rows * new,
    lambda: generate(params, texts, valid, keys).response,
    phases(model_config, rows, prompt, new),
    repetitions=repetitions,
    extra={"rows": rows, "prompt": prompt, "new": new},
  )


def ragged_lengths(count: int, mean: int, most: int, seed: int = 0):
  """[count] int32: geometric lengths of that mean, cut at the most."""
  generator = np.random.default_rng(seed)
  return np.minimum(generator.geometric(1 / mean, count), most).astype(np.int32)


def run_ragged(
  rows: int = 16,
  prompt: int = 128,
  new: int = 256,
  *,
  count: int = 128,
  mean: int = 32,
  repetitions: int = 3,
  model_config: decoder.DecoderConfig = workload.MODEL,
) -> dict[str, Any]:
  """`count` responses of geometric lengths, in `rows` slots and in batches.

  The two take turns; each draws the same responses, which is checked.
  """
  model, params = workload.build(model_config)
  texts = jnp.asarray(
    workload.tokens(count, prompt, vocab_size=model_config.vocab_size)
  )
  keys = decode.row_keys(jax.random.key(0), jnp.arange(count))
  lengths = jnp.asarray(ragged_lengths(count, mean, new))
  draws = {}
  for slots in (0, rows):
    config = decode.SamplingConfig(max_tokens=new, temperature=0.9, slots=slots)
    draws[slots] = jax.jit(
      functools.partial(
        decode.generate, model, config=config, eos_ids=(workload.NEVER,)
      )
    )

  def draw(slots, part):
    given = texts[part], jnp.ones(texts[part].shape, bool), keys[part]
    return draws[slots](params, *given, limits=lengths[part])

  def in_batches():
    parts = [slice(i, i + rows) for i in range(0, count, rows)]
    drawn = [draw(0, part).response for part in parts]
    return jnp.concatenate(drawn)

  def in_slots():
    return draw(rows, slice(None)).response

  same = float(jnp.mean(jnp.all(in_batches() == in_slots(), axis=1)))
  seconds = {"batches": [], "slots": []}
  for _ in range(repetitions):
    for name, call in (("batches", in_batches), ("slots", in_slots)):
      seconds[name] += roofline.seconds_of(call, 1)
  took = {name: statistics.median(times) for name, times in seconds.items()}
  total = int(lengths.sum())
  line = {
    "bench": "rollout, ragged",
    "slots_tokens_per_s": round(total / took["slots"], 1),
    "batches_tokens_per_s": round(total / took["batches"], 1),
    "ratio": round(took["batches"] / took["slots"], 3),
    "same_responses": same,
    "rows": rows,
    "prompt": prompt,
    "new": new,
    "count": count,
    "mean_length": total / count,
  }
  print(json.dumps(line), flush=True)
  return line


def main(arguments: Sequence[str] | None = None) -> None:
  """The command line."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--ragged", action="store_true")
  parser.add_argument("--rows", type=int, default=16)
  parser.add_argument("--prompt", type=int, default=128)
  parser.add_argument("--new", type=int, help="64, or 256 if ragged")
  parser.add_argument("--count", type=int, default=128, help="if ragged")
  parser.add_argument("--repetitions", type=int, default=3)
  given = parser.parse_args(arguments)
  sizes = (given.rows, given.prompt)
  if given.ragged:
    run_ragged(
      *sizes,
      given.new or 256,
      count=given.count,
      repetitions=given.repetitions,
    )
  else:
    run(*sizes, given.new or 64, repetitions=given.repetitions)


if __name__ == "__main__":
  main()
