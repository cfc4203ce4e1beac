# SPDX-License-Identifier: Apache-2.0
"""Seconds from start to first step: python -m rlaif_jax.bench.startup.

Times the import, and processes that make one RL step: one with an empty
compilation cache, and one with the cache that the first has filled.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Mapping

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
  """Makes one step of the benchmark `rl_step`; returns its number."""
  rl = algorithms.RLConfig(algorithm="rloo", samples_per_prompt=2)
  call = rl_step.make_step(model_config, rl, samples // 2, prompt, new)
  step, _ = jax.block_until_ready(call())
  return int(step)


def seconds_of(code: str, environ: Mapping[str, str]) -> float:
  """Returns the wall seconds of a Python process that runs the code."""
  begin = time.monotonic()
  subprocess.run([sys.executable, "-c", code], env=environ, check=True)
  return time.monotonic() - begin


def run(step: str = STEP) -> dict[str, object]:
  """Times whole processes; `step` is the code of one step."""
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


if __name__ == "__main__":
  workload.main(run, __doc__)
