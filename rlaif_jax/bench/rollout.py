# SPDX-License-Identifier: Apache-2.0
"""Tokens a second of sampling: python -m rlaif_jax.bench.rollout."""

from __future__ import annotations

import argparse
import functools
from typing import Any, Sequence

import jax
import jax.numpy as jnp

from rlaif_jax.bench import roofline
from rlaif_jax.bench import workload
from rlaif_jax.engine import decode
from rlaif_jax.models import decoder


def phases(
  config: decoder.DecoderConfig, rows: int, prompt: int, new: int
) -> list[roofline.Phase]:
  """Prompts once, then one token after another."""
  first = workload.forward(
    config, name="prompts", rows=rows, columns=prompt, logits=1
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


def main(arguments: Sequence[str] | None = None) -> None:
  """The command line."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--rows", type=int, default=16)
  parser.add_argument("--prompt", type=int, default=128)
  parser.add_argument("--new", type=int, default=64)
  parser.add_argument("--repetitions", type=int, default=3)
  given = parser.parse_args(arguments)
  run(given.rows, given.prompt, given.new, repetitions=given.repetitions)


if __name__ == "__main__":
  main()
