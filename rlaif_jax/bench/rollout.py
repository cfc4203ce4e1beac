# SPDX-License-Identifier: Apache-2.0
"""Tokens per second of sampling: python -m rlaif_jax.bench.rollout.

--ragged compares refilled slots with fixed batches on responses whose lengths
vary.
"""

from __future__ import annotations

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np

from rlaif_jax.bench import model_flops
from rlaif_jax.bench import roofline
from rlaif_jax.bench import workload
from rlaif_jax.engine import decode
from rlaif_jax.models import decoder


def phases(
  config: decoder.DecoderConfig, rows: int, prompt: int, new: int
) -> list[roofline.Phase]:
  """Returns the prefill, and the decode steps."""
  first = model_flops.forward(
    config, name="prompts", rows=rows, columns=prompt, logits=1, states=1
  )
  # A token attends to half of the new columns on average.
  token = model_flops.forward(
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
  new: int = 0,
  *,
  ragged: bool = False,
  count: int = 128,
  repetitions: int = 3,
  model_config: decoder.DecoderConfig = workload.MODEL,
) -> dict[str, object]:
  """Times sampling of `new` tokens after each prompt.

  Args:
    rows: prompts per batch.
    prompt: tokens of a prompt.
    new: maximum new tokens; 0: 64, or 256 if ragged.
    ragged: compares slots with batches; see `run_ragged`.
    count: number of responses if ragged.
    repetitions: timed calls.
    model_config: the model.
  """
  if ragged:
    return run_ragged(
      rows,
      prompt,
      new or 256,
      count=count,
      repetitions=repetitions,
      model_config=model_config,
    )
  new = new or 64
  model, params = workload.build(model_config)
  texts = jnp.asarray(
    workload.tokens(rows, prompt, vocab_size=model_config.vocab_size)
  )
  valid = jnp.ones(texts.shape, bool)
  keys = decode.row_keys(jax.random.key(0), jnp.arange(rows))
  config = decode.SamplingConfig(max_tokens=new, temperature=0.9)
  generate = jax.jit(
    functools.partial(
      decode.generate, model, config=config, eos_ids=(workload.NO_EOS,)
    )
  )
  return workload.report(
    "rollout",
    "tokens",
    rows * new,
    lambda: generate(params, texts, valid, keys).response,
    phases(model_config, rows, prompt, new),
    repetitions=repetitions,
    settings={"rows": rows, "prompt": prompt, "new": new},
  )


def ragged_lengths(
  count: int, mean: int, longest: int, seed: int = 0
) -> np.ndarray:
  """Returns [count] int32 geometric lengths of a mean, cut at a maximum."""
  generator = np.random.default_rng(seed)
  return np.minimum(generator.geometric(1 / mean, count), longest).astype(
    np.int32
  )


def run_ragged(
  rows: int = 16,
  prompt: int = 128,
  new: int = 256,
  *,
  count: int = 128,
  mean: int = 32,
  repetitions: int = 3,
  model_config: decoder.DecoderConfig = workload.MODEL,
) -> dict[str, object]:
  """Times `count` responses of geometric lengths, in slots and in batches.

  Slots and batches alternate, and sample the same responses.
  """
  model, params = workload.build(model_config)
  texts = jnp.asarray(
    workload.tokens(count, prompt, vocab_size=model_config.vocab_size)
  )
  keys = decode.row_keys(jax.random.key(0), jnp.arange(count))
  lengths = jnp.asarray(ragged_lengths(count, mean, new))
  samplers = {}
  for slots in (0, rows):
    config = decode.SamplingConfig(max_tokens=new, temperature=0.9, slots=slots)
    samplers[slots] = jax.jit(
      functools.partial(
        decode.generate, model, config=config, eos_ids=(workload.NO_EOS,)
      )
    )

  def sample(slots, part):
    given = texts[part], jnp.ones(texts[part].shape, bool), keys[part]
    return samplers[slots](params, *given, limits=lengths[part])

  def in_batches():
    parts = [slice(i, i + rows) for i in range(0, count, rows)]
    return jnp.concatenate([sample(0, part).response for part in parts])

  def in_slots():
    return sample(rows, slice(None)).response

  same = float(jnp.mean(jnp.all(in_batches() == in_slots(), axis=1)))
  seconds = roofline.alternate(
    {"batches": in_batches, "slots": in_slots}, repetitions
  )
  total = int(lengths.sum())
  line = {
    "bench": "rollout, ragged",
    "slots_tokens_per_s": round(total / seconds["slots"], 1),
    "batches_tokens_per_s": round(total / seconds["batches"], 1),
    "ratio": round(seconds["batches"] / seconds["slots"], 3),
    "same_responses": same,
    "rows": rows,
    "prompt": prompt,
    "new": new,
    "count": count,
    "mean_length": total / count,
  }
  print(json.dumps(line), flush=True)
  return line


if __name__ == "__main__":
  workload.main(run, __doc__)
