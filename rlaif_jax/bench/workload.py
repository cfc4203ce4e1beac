# SPDX-License-Identifier: Apache-2.0
"""The common parts of the benchmarks: model, texts, report, command line.

The model is a Llama of 43.7M parameters. Weights and texts are random, which
costs the same time as trained ones.
"""

from __future__ import annotations

import argparse
import inspect
import json
import statistics
from typing import Callable, Mapping, Sequence

import flax.linen as nn
import jax
from jaxtyping import Int, PyTree
import numpy as np

from rlaif_jax.bench import roofline
from rlaif_jax.core import protocols
from rlaif_jax.models import architectures
from rlaif_jax.models import decoder

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

# An end token that is never sampled, so all responses have the full length.
NO_EOS = -1


def build(
  config: decoder.DecoderConfig = MODEL, seed: int = 0
) -> tuple[protocols.LanguageModel, PyTree]:
  """Returns the functions of a language model and its random parameters."""
  functions = architectures.language(config)
  params = nn.unbox(jax.jit(functions.init)(jax.random.key(seed)))
  return functions, params


def tokens(
  rows: int, columns: int, *, vocab_size: int = MODEL.vocab_size, seed: int = 0
) -> Int[np.ndarray, "rows columns"]:
  """Returns [rows, columns] random int32 tokens without special tokens."""
  generator = np.random.default_rng(seed)
  return generator.integers(3, vocab_size, (rows, columns)).astype(np.int32)


def report(
  name: str,
  unit: str,
  amount: float,
  call: Callable[[], PyTree],
  phases: Sequence[roofline.Phase],
  *,
  repetitions: int,
  settings: Mapping[str, object],
) -> dict[str, object]:
  """Times a call, measures the machine, and prints one line of JSON.

  Args:
    name: name of the benchmark.
    unit: plural name of what is counted, such as "tokens".
    amount: units per call.
    call: does the work once and returns arrays to wait for.
    phases: the work, for the roofline.
    repetitions: timed calls, after one that compiles; the median is reported.
    settings: further entries of the line.
  """
  seconds = statistics.median(roofline.seconds_of(call, repetitions))
  limit = roofline.summary(phases, roofline.measure())
  line = {
    "bench": name,
    f"{unit}_per_s": round(amount / seconds, 3),
    "seconds": round(seconds, 6),
    f"roofline_{unit}_per_s": round(amount / limit["roofline_s"], 3),
    "share": round(limit["roofline_s"] / seconds, 3),
    "gflop": round(sum(p.times * p.flops for p in phases) / 1e9, 6),
    "gb": round(sum(p.times * p.bytes for p in phases) / 1e9, 6),
    **limit,
    **settings,
  }
  print(json.dumps(line), flush=True)
  return line


def main(
  run: Callable[..., object],
  description: str,
  arguments: Sequence[str] | None = None,
) -> None:
  """Calls `run` with flags from the command line.

  Parameters of `run` whose defaults are numbers, texts or booleans are flags.
  """
  parser = argparse.ArgumentParser(description=description)
  for name, parameter in inspect.signature(run).parameters.items():
    default = parameter.default
    if isinstance(default, bool):
      parser.add_argument(f"--{name}", action="store_true")
    elif isinstance(default, (int, str)):
      parser.add_argument(f"--{name}", type=type(default), default=default)
  run(**vars(parser.parse_args(arguments)))
