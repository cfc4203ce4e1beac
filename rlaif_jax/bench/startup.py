# SPDX-License-Identifier: Apache-2.0
"""Seconds until work begins: python -m rlaif_jax.bench.startup.

Of the import, and of a process that makes one RL step of the peers' model:
with an empty compilation cache, and with the one that this filled.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any, Mapping, Sequence

import jax

from rlaif_jax.bench import rl_step
from rlaif_jax.bench import workload
from rlaif_jax.cli import compile_cache
from rlaif_jax.models import decoder
from rlaif_jax.rl import algorithms

STEP = "from rlaif_jax.bench import startup; startup.first_step()"
IMPORT = "import rlaif_jax.main, rlaif_jax.jobs.train_policy"


def first_step(
  model_config: decoder.DecoderConfig = workload.MODEL,
  samples: int = 16,
  prompt: int = 128,
  new: int = 64,
) -> int:
  """Makes one RL step of the work of `rl_step`; returns its number."""
  rl = algorithms.RLConfig(algorithm="rloo", samples_per_prompt=2)
  call = rl_step.timed_step(model_config, rl, samples // 2, prompt, new)
  step, _ = jax.block_until_ready(call())
  return int(step)


def seconds_of(code: str, environ: Mapping[str, str]) -> float:
  """Wall seconds of a Python process that runs the code."""
  begin = time.monotonic()
  subprocess.run([sys.executable, "-c", code], env=environ, check=True)
  return time.monotonic() - begin


def run(step: str = STEP) -> dict[str, Any]:
  """Times whole processes, from their start to their end."""
  with tempfile.TemporaryDirectory() as cache:
    environ = {**os.environ, compile_cache.JAX: cache}
    line = {
      "bench": "startup",
      "import_s": round(seconds_of(IMPORT, environ), 2),
      "first_step_cold_s": round(seconds_of(step, environ), 2),
      "first_step_warm_s": round(seconds_of(step, environ), 2),
      "programs": sum(name.endswith("-cache") for name in os.listdir(cache)),
    }
  print(json.dumps(line), flush=True)
  return line


def main(arguments: Sequence[str] = ()) -> None:
  """The command line, which takes nothing."""
  if arguments:
    raise SystemExit(f"bench.startup takes no arguments, not {arguments}")
  run()


if __name__ == "__main__":
  main(sys.argv[1:])
