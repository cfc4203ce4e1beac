# SPDX-License-Identifier: Apache-2.0
"""Samples per second of an RL step: python -m rlaif_jax.bench.rl_step.

A step is rollout, reference log-probs and update. The reward is a cheap
function of the tokens.
"""

from __future__ import annotations

import dataclasses
from typing import Callable

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from rlaif_jax.bench import model_flops
from rlaif_jax.bench import pairs as pairs_lib
from rlaif_jax.bench import roofline
from rlaif_jax.bench import rollout as rollout_bench
from rlaif_jax.bench import workload
from rlaif_jax.core import batches
from rlaif_jax.core import protocols
from rlaif_jax.engine import decode
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.engine import optimizer as optimizer_lib
from rlaif_jax.engine import step as step_lib
from rlaif_jax.models import architectures
from rlaif_jax.models import decoder
from rlaif_jax.rl import algorithms
from rlaif_jax.rl import rollout
from rlaif_jax.rl import update as update_lib


def phases(
  config: decoder.DecoderConfig,
  samples: int,
  prompt: int,
  new: int,
  rl: algorithms.RLConfig,
) -> list[roofline.Phase]:
  """Counts each prompt once for all of its samples."""
  group = rl.samples_per_prompt
  prompts = samples // group
  _, tokens = rollout_bench.phases(config, samples, prompt, new)

  def reading(name, passes, with_logits):
    own = samples * (prompt * new + new * (new + 1) / 2)
    return model_flops.group_pass(
      config,
      name=name,
      columns=prompts * prompt + samples * new,
      attended=prompts * prompt * (prompt + 1) / 2 + own,
      states=samples * new,
      logits=samples * new if with_logits else 0,
      passes=passes,
    )

  first = model_flops.forward(
    config, name="prompts", rows=prompts, columns=prompt, logits=1, states=1
  )
  result = [
    first,
    tokens,
    reading("reference", 1, True),
    reading("update", 3, True),
    model_flops.adamw(config),
  ]
  if rl.row.needs_value:
    result.append(reading("value update", 3, False))
    result.append(model_flops.adamw(config, "value optimizer"))
  return result


def different_tokens(params, prompts, response, mask):
  """Scores [B, N] by the share of tokens that differ from the one before."""
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
) -> dict[str, object]:
  """Times whole steps.

  Args:
    algorithm: key of `rl.algorithms.ALGORITHMS`; those that compare samples of
      a prompt get two per prompt.
    samples: samples per step.
    prompt: tokens of a prompt.
    new: tokens of a response.
    repetitions: timed steps.
    model_config: the model.
  """
  rl = algorithms.RLConfig(algorithm=algorithm, samples_per_prompt=2)
  group = algorithms.ALGORITHMS[algorithm].min_samples
  rl = dataclasses.replace(rl, samples_per_prompt=group)
  call = make_step(model_config, rl, samples // group, prompt, new)
  return workload.report(
    "rl_step",
    "samples",
    samples,
    call,
    phases(model_config, samples, prompt, new, rl),
    repetitions=repetitions,
    settings={
      "algorithm": algorithm,
      "samples": samples,
      "prompt": prompt,
      "new": new,
    },
  )


def make_step(
  model_config: decoder.DecoderConfig,
  rl: algorithms.RLConfig,
  prompts: int,
  prompt: int,
  new: int,
  reward: tuple[protocols.Scorer, PyTree] = (different_tokens, None),
) -> Callable[[], PyTree]:
  """Returns a function that makes one step, with new prompts each time.

  Args:
    model_config: policy.
    rl: objective and algorithm.
    prompts: prompts per step.
    prompt: tokens of a prompt.
    new: tokens of a response.
    reward: a Scorer and its parameters.
  """
  model = architectures.language(model_config)
  value = architectures.scalar(model_config)
  inits = {"policy": model.init}
  if rl.row.needs_value:
    inits["value"] = value.init
  tx = optimizer_lib.make_joint_optimizer(dict.fromkeys(inits, pairs_lib.ADAMW))
  mesh = mesh_lib.make_mesh("data:-1", jax.devices()[:1])
  state = [
    step_lib.init_state(
      lambda key: {name: init(key) for name, init in inits.items()},
      tx,
      jax.random.key(0),
      mesh,
    )
  ]
  frozen = {
    "reference": jax.tree.map(jnp.copy, state[0].params["policy"]),
    "scorer": reward[1],
  }
  sampling = decode.SamplingConfig(max_tokens=new, temperature=0.9)
  rl = dataclasses.replace(rl, sampling=sampling)
  collect = rollout.make_collect(
    model, value, reward[0], config=rl, eos_ids=(workload.NO_EOS,)
  )
  loss = update_lib.make_loss(model, value, rl)
  update = step_lib.make_train_step(loss, tx)
  count = [0]

  def call():
    count[0] += 1
    tokens = workload.tokens(
      prompts, prompt, vocab_size=model_config.vocab_size, seed=count[0]
    )
    batch = mesh_lib.put_batch(mesh, _prompt_batch(tokens))
    key = jax.random.key(count[0])
    collected, _ = collect(state[0].params, frozen, batch, key)
    state[0], metrics = update(state[0], collected, key)
    return state[0].step, metrics

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


if __name__ == "__main__":
  workload.main(run, __doc__)
