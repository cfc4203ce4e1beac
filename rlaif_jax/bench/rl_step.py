# SPDX-License-Identifier: Apache-2.0
"""Samples a second of an RL step: python -m rlaif_jax.bench.rl_step.

Rollout, reference log-probs and update; the reward is a function of the tokens
that costs nothing, as the peers' is.
"""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any, Sequence

import jax
import jax.numpy as jnp

from rlaif_jax.bench import pairs as pairs_lib
from rlaif_jax.bench import roofline
from rlaif_jax.bench import rollout as rollout_bench
from rlaif_jax.bench import workload
from rlaif_jax.core import batches
from rlaif_jax.engine import decode
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.engine import optimizer as optimizer_lib
from rlaif_jax.engine import step as step_lib
from rlaif_jax.models import architectures
from rlaif_jax.models import decoder
from rlaif_jax.rl import algorithms
from rlaif_jax.rl import rollout


def phases(
  config: decoder.DecoderConfig,
  samples: int,
  prompt: int,
  new: int,
  rl: algorithms.RLConfig,
) -> list[roofline.Phase]:
  """Each prompt once for all of its samples, wherever it is read."""
  group = rl.samples_per_prompt
  prompts = samples // group
  _, tokens = rollout_bench.phases(config, samples, prompt, new)

  def reading(name, passes, with_logits):
    own = samples * (prompt * new + new * (new + 1) / 2)
    return pairs_lib.branch_pass(
      config,
      name=name,
      columns=prompts * prompt + samples * new,
      attended=prompts * prompt * (prompt + 1) / 2 + own,
      read_out=samples * new,
      logits=samples * new if with_logits else 0,
      passes=passes,
    )

  first = workload.forward(
    config, name="prompts", rows=prompts, columns=prompt, logits=1, asked=1
  )
  result = [
    first,
    tokens,
    reading("reference", 1, True),
    reading("update", 3, True),
    pairs_lib.optimizer_phase(config),
  ]
  if algorithms.ALGORITHMS[rl.algorithm].needs_value:
    result.append(reading("value update", 3, False))
    result.append(pairs_lib.optimizer_phase(config, "value optimizer"))
  return result


def different_tokens(params, prompts, response, mask):
  """A Scorer: the share of tokens that are not the one before."""
  del params, prompts
  changes = jnp.mean(response[..., 1:] != response[..., :-1], axis=-1)
  return changes * mask[..., 0]


def run(
  algorithm: str = "rloo",
  samples: int = 16,
  prompt: int = 128,
  new: int = 64,
  *,
  repetitions: int = 4,
  model_config: decoder.DecoderConfig = workload.MODEL,
) -> dict[str, Any]:
  """Whole steps; algorithms of groups take two samples a prompt."""
  row = algorithms.ALGORITHMS[algorithm]
  rl = algorithms.RLConfig(
    algorithm=algorithm, samples_per_prompt=row.min_samples
  )
  call = timed_step(model_config, rl, samples // row.min_samples, prompt, new)
  return workload.report(
    "rl_step",
    "samples",
    samples,
    call,
    phases(model_config, samples, prompt, new, rl),
    repetitions=repetitions,
    extra={
      "algorithm": algorithm,
      "samples": samples,
      "prompt": prompt,
      "new": new,
    },
  )


def timed_step(model_config, rl, prompts: int, prompt: int, new: int):
  """A call that makes one step, with other prompts each time."""
  model = architectures.language(model_config)
  value = architectures.scalar(model_config)
  inits = {"policy": model.init}
  if algorithms.ALGORITHMS[rl.algorithm].needs_value:
    inits["value"] = value.init
  tx = optimizer_lib.make_joint_optimizer(dict.fromkeys(inits, pairs_lib.ADAMW))
  mesh = mesh_lib.make_mesh("data:-1", jax.devices()[:1])
  held = [
    step_lib.init_state(
      lambda key: {name: init(key) for name, init in inits.items()},
      tx,
      jax.random.key(0),
      mesh,
    )
  ]
  frozen = {
    "reference": jax.tree.map(jnp.copy, held[0].params["policy"]),
    "scorer": None,
  }
  sampling = decode.SamplingConfig(max_tokens=new, temperature=0.9)
  rl = dataclasses.replace(rl, sampling=sampling)
  collect = rollout.make_collect(
    model, value, different_tokens, config=rl, eos_ids=(workload.NEVER,)
  )
  loss = algorithms.make_loss(model, value, rl)
  update = step_lib.make_train_step(loss, tx)
  count = [0]

  def call():
    count[0] += 1
    tokens = workload.tokens(
      prompts, prompt, vocab_size=model_config.vocab_size, seed=count[0]
    )
    batch = mesh_lib.put_batch(mesh, _prompt_batch(tokens))
    key = jax.random.key(count[0])
    collected, _ = collect(held[0].params, frozen, batch, key)
    held[0], metrics = update(held[0], collected, key)
    return held[0].step, metrics

  return call


def _prompt_batch(tokens) -> batches.PromptBatch:
  valid = tokens >= 0
  return batches.PromptBatch(
    prompt=tokens,
    prompt_valid=valid,
    context=tokens,
    context_valid=valid,
    row=jnp.arange(len(tokens)),
  )


def main(arguments: Sequence[str] | None = None) -> None:
  """The command line."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument(
    "--algorithm", default="rloo", choices=sorted(algorithms.ALGORITHMS)
  )
  parser.add_argument("--samples", type=int, default=16)
  parser.add_argument("--prompt", type=int, default=128)
  parser.add_argument("--new", type=int, default=64)
  parser.add_argument("--repetitions", type=int, default=4)
  run(**vars(parser.parse_args(arguments)))


if __name__ == "__main__":
  main()
