# SPDX-License-Identifier: Apache-2.0
"""Checks an installation on its device: python -m rlaif_jax.bench.device_check.

Compares the attention kernels of the device with plain attention, and sampled
log-probs with those of a pass over whole rows. Then times rollout, judge,
reward, DPO and RL steps by size, and prints a table with what bounds each.
`launch/gpu_check.sh` makes the environment and calls it.
"""

from __future__ import annotations

import functools
import time
from typing import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from rlaif_jax.bench import dpo
from rlaif_jax.bench import judge
from rlaif_jax.bench import reward
from rlaif_jax.bench import rl_step
from rlaif_jax.bench import roofline
from rlaif_jax.bench import rollout
from rlaif_jax.bench import workload
from rlaif_jax.core import batches
from rlaif_jax.engine import decode
from rlaif_jax.engine import scoring
from rlaif_jax.models import attention
from rlaif_jax.models import decoder
from rlaif_jax.models import layouts
from rlaif_jax.planner import chips

# Sizes of SmolLM2-135M, Llama 3.2 1B and Llama 3 8B. The last trains on no
# single device here, and only samples and judges.
SIZES = {
  "tiny": decoder.DecoderConfig(
    vocab_size=64,
    width=32,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    mlp_dim=64,
    max_length=1024,
  ),
  "135m": decoder.DecoderConfig(
    vocab_size=49152,
    width=576,
    num_layers=30,
    num_heads=9,
    num_kv_heads=3,
    head_dim=64,
    mlp_dim=1536,
    max_length=2048,
    dtype="bfloat16",
  ),
  "1b": decoder.DecoderConfig(
    vocab_size=128256,
    width=2048,
    num_layers=16,
    num_heads=32,
    num_kv_heads=8,
    head_dim=64,
    mlp_dim=8192,
    max_length=2048,
    dtype="bfloat16",
  ),
  "8b": decoder.DecoderConfig(
    vocab_size=128256,
    width=4096,
    num_layers=32,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    mlp_dim=14336,
    max_length=2048,
    tie_embeddings=False,
    dtype="bfloat16",
  ),
}
FORWARD_ONLY = ("8b",)

# Benchmarks by name, with short rows for the size "tiny" and others.
STEPS: dict[str, tuple[Callable, dict[str, int], dict[str, int]]] = {
  "rollout": (
    rollout.run,
    {"rows": 2, "prompt": 8, "new": 4},
    {"rows": 64, "prompt": 512, "new": 128},
  ),
  "judge": (
    judge.run,
    {"pairs": 2, "shared": 8, "context": 8, "candidate": 4, "batch_size": 4},
    {"batch_size": 32},
  ),
  "reward": (
    reward.run,
    {"pairs": 2, "prompt": 8, "response": 4},
    {"pairs": 16, "prompt": 896, "response": 64},
  ),
  "dpo": (
    dpo.run,
    {"pairs": 2, "prompt": 8, "response": 4},
    {"pairs": 16, "prompt": 896, "response": 64},
  ),
  "rl_step": (
    rl_step.run,
    {"samples": 2, "prompt": 8, "new": 4},
    {"samples": 32, "prompt": 512, "new": 128},
  ),
}
FORWARD = ("rollout", "judge")


def kernel_errors(length: int, dtype: str) -> dict[str, float]:
  """Returns differences from plain attention: output, gradients.

  The largest, as parts of the largest value.

  Rows are texts with padding, of `length` columns, 8 heads of 64 channels.
  """
  generator = np.random.default_rng(0)
  shapes = ((2, length, 8, 64), (2, 4, length, 64), (2, 4, length, 64))
  inputs = [jnp.asarray(generator.normal(0, 1, s), dtype) for s in shapes]
  valid = jnp.arange(length)[None] >= jnp.array([[0], [length // 8]])

  @functools.partial(jax.jit, static_argnames="name")
  def read(inputs, name):
    kernel = layouts.choose(name, None, length, length)
    layout = layouts.causal_layout(valid, kernel)

    def total(*inputs):
      out = attention.attend_rows(*inputs, layout)
      out = jnp.where(valid[:, :, None, None], out, 0).astype(jnp.float32)
      return jnp.sum(jnp.sin(out)), out

    grads, out = jax.grad(total, argnums=(0, 1, 2), has_aux=True)(*inputs)
    return (out, *grads)

  def most(a, b):
    difference = jnp.max(jnp.abs(a.astype(jnp.float32) - b))
    return float(difference / jnp.max(jnp.abs(b)))

  names = ("output", "query", "key", "value")
  found = read(inputs, "auto"), read(inputs, "plain")
  return {name: most(*pair) for name, *pair in zip(names, *found, strict=True)}


def sampling_error(config: decoder.DecoderConfig) -> float:
  """Returns the largest difference of sampled tokens' log-probs.

  Between those that the sampler reports and those of a pass over whole rows.
  """
  model, params = workload.build(config)
  prompt = jnp.asarray(workload.tokens(2, 24, vocab_size=config.vocab_size))
  valid = jnp.ones(prompt.shape, bool)
  sampled = decode.generate(
    model,
    params,
    prompt,
    valid,
    decode.row_keys(jax.random.key(0), jnp.arange(2)),
    config=decode.SamplingConfig(max_tokens=16),
    eos_ids=(workload.NO_EOS,),
  )
  group = batches.GroupBatch(
    prompt=prompt,
    prompt_valid=valid,
    response=sampled.response[:, None],
    response_valid=sampled.mask[:, None] > 0,
  )
  found = scoring.response_log_probs(model, params, group)
  return float(jnp.max(jnp.abs(found[:, 0] - sampled.log_probs)))


def timed(sizes: list[str], until: float) -> Iterator[str]:
  """Yields rows of a table: one step of each kind for each size.

  Args:
    sizes: keys of SIZES.
    until: `time.monotonic()` after which no further step starts.
  """
  device = jax.devices()[0]
  yield "| size | step | per second | seconds | MFU | bound by |"
  yield "| -- | -- | -- | -- | -- | -- |"
  known = chips.CHIPS.get(device.device_kind)
  machine = roofline.measure()
  flops, bandwidth = machine.flops, machine.bandwidth
  if known is not None:
    flops, bandwidth = known.flops, known.memory_bandwidth
  for size in sizes:
    for name, (run, short, usual) in STEPS.items():
      if size in FORWARD_ONLY and name not in FORWARD:
        continue
      if time.monotonic() > until:
        yield f"| {size} | {name} | not measured: out of time | | | |"
        continue
      rows = short if size == "tiny" else usual
      line = run(**rows, repetitions=2, model_config=SIZES[size])
      unit = next(key for key in line if key.endswith("_per_s"))
      used = line["gflop"] * 1e9 / flops
      reads = line["gb"] * 1e9 / bandwidth
      bound = "compute" if used > reads else "memory"
      yield (
        f"| {size} | {name} | {line[unit]:.6g} {unit.removesuffix('_per_s')} "
        f"| {line['seconds']:.4g} | {used / line['seconds']:.0%} | {bound} |"
      )


def run(sizes: str = "135m,1b,8b", minutes: int = 8) -> list[str]:
  """Prints the differences and a table in Markdown.

  Args:
    sizes: keys of SIZES, separated by commas.
    minutes: number of minutes after which no step starts.

  Raises:
    ValueError: if a size is unknown.
    SystemExit: if numbers differ by more than rounding.
  """
  chosen = sizes.split(",")
  for size in chosen:
    if size not in SIZES:
      raise ValueError(f"--sizes has {size!r}; use some of {list(SIZES)}")
  until = time.monotonic() + 60 * minutes
  device = jax.devices()[0]
  lines = [
    f"{device.device_kind}, {device.platform}, jax {jax.__version__}",
    "",
  ]
  is_right = True
  length = 1536 if device.platform == "cpu" else 2048
  for dtype, limit in (("float32", 2e-2), ("bfloat16", 6e-2)):
    errors = kernel_errors(length, dtype)
    is_right &= max(errors.values()) < limit
    shown = ", ".join(f"{name} {error:.2g}" for name, error in errors.items())
    lines.append(f"attention against plain, {dtype}: {shown} (limit {limit})")
  error = sampling_error(SIZES["tiny"])
  is_right &= error < 2e-2
  lines += [f"log-probs, sampled against read whole: {error:.2g}", ""]
  print("\n".join(lines), flush=True)
  if not is_right:
    raise SystemExit("the numbers differ by more than rounding; see above")
  for row in timed(chosen, until):
    lines.append(row)
  print("\n".join(lines), flush=True)
  return lines


if __name__ == "__main__":
  workload.main(run, __doc__)
