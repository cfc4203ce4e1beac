# SPDX-License-Identifier: Apache-2.0
"""Trains a policy by RLAIF, RLHF or d-RLAIF, which differ in the reward."""

from __future__ import annotations

import dataclasses

from rlaif_jax.api import candidates
from rlaif_jax.api import reward_parts
from rlaif_jax.core import compute as compute_lib
from rlaif_jax.core import job_spec
from rlaif_jax.core import records
from rlaif_jax.core import rng
from rlaif_jax.data import converters
from rlaif_jax.data import datasets
from rlaif_jax.engine import loop
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.engine import optimizer as optimizer_lib
from rlaif_jax.engine import step as step_lib
from rlaif_jax.model_io import initialization
from rlaif_jax.model_io import pretrained
from rlaif_jax.model_io import trainable
from rlaif_jax.rl import algorithms
from rlaif_jax.rl import rollout as rollout_lib
from rlaif_jax.rl import update as update_lib

JOB = job_spec.JobSpec(multihost=True)


def run(
  *,
  output_dir: str,
  policy_dir: str,
  prompts: datasets.PromptData,
  reward: reward_parts.RewardConfig,
  rl: algorithms.RLConfig = algorithms.RLConfig(),
  optimizers: optimizer_lib.PolicyOptimizers = optimizer_lib.PolicyOptimizers(),
  train: loop.TrainConfig = loop.TrainConfig(epochs=1.0),
  selection: candidates.SelectionConfig = candidates.SelectionConfig(),
  compute: compute_lib.ComputeConfig = compute_lib.ComputeConfig(),
  name: str = "policy",
) -> records.Row:
  """Trains, selects a checkpoint, and writes `output_dir`/model.

  Args:
    output_dir: output directory; a second start resumes there.
    policy_dir: SFT policy: start of policy and value network, and reference.
    prompts: training and validation contexts.
    reward: one scorer, or several named parts.
    rl: objective, algorithm and sampling; the defaults are the paper's.
    optimizers: optimizers of policy and value network (paper: 1e-5).
    train: length, prompts per update (paper: 128), evaluations and seed.
    selection: selects the candidate that becomes the model.
    compute: devices, memory, and the placement of each model.
    name: name of the finished model.
  """
  devices = mesh_lib.make_mesh(compute.mesh)
  placement = compute.placement
  # 1. Models: policy and reference from SFT, value trunk from SFT, scorer.
  sft = pretrained.load(
    policy_dir, "language", devices, placement.policy, compute.attention
  )
  converters.check_fits(
    dataclasses.replace(sft.sequence, max_response=rl.sampling.max_tokens),
    sft.tokenizer,
    vocab_size=sft.config.vocab_size,
    max_length=sft.config.max_length,
  )
  examples, validation = prompts.read_splits()
  encode = datasets.prompt_encoder(sft.tokenizer, sft.sequence)
  rows = datasets.TrainingRows(examples, encode)
  scored = reward_parts.load(reward, sft, (examples, validation), output_dir)
  reference = pretrained.load_reference(sft, devices, placement)
  frozen = {"reference": reference.params, "scorer": scored.params}
  value = initialization.value_model(rl, sft.config, devices, compute)
  learned, parts = initialization.policy_params(
    sft,
    value,
    devices,
    key=rng.key(train.seed, "init"),
    placement=placement.value,
    lora=optimizers.lora(),
  )
  rest = trainable.join(parts)
  # 2. Rollout and update.
  reshard = mesh_lib.make_reshard(
    sft.functions.init, devices, placement.rollout
  )
  collect = rollout_lib.make_collect(
    sft.functions,
    value,
    scored.score,
    config=rl,
    eos_ids=sft.tokenizer.eos_ids,
    reshard=placement.rollout and reshard,
  )
  tx, update = update_lib.make_update(
    pretrained.language_model(sft.config, devices, compute),
    value,
    rl,
    optimizers.transforms(),
    microbatches=compute.microbatches,
    combine=rest.combine,
  )

  def next_batch(state, step):
    batch = rows.at_step(step, devices, train, name)
    key = rng.key(train.seed, "rollout", step)
    return collect(rest.attached(state.params), frozen, batch, key)

  def step_fn(state, collected, key):
    batch, rollout_metrics = collected
    state, metrics = update(state, batch, key, rest.params)
    return state, {**metrics, **rollout_metrics}

  # 3. The loop; every evaluation saves a candidate.
  evaluate = candidates.Candidates(
    output_dir,
    sft,
    validation,
    scored.validate,
    sampling=rl.sampling,
    batch_size=train.batch_size,
    reshard=reshard,
    frozen=parts["policy"],
  )
  state = loop.fit(
    step_lib.state_from_params(learned, tx, devices),
    step_fn,
    next_batch,
    config=train,
    num_rows=len(rows),
    directory=output_dir,
    name=name,
    evaluate=evaluate,
  )
  # 4. Selection, and the finished model.
  table = candidates.select(output_dir, selection, devices)
  best = max(table, key=lambda c: (c["preference"], c["score"]))["step"]
  learned = evaluate.load(best, state.params["policy"])
  trainable.save(output_dir, learned, parts["policy"], sft, name=name)
  return {
    "model": f"{output_dir}/model",
    "prompts": len(rows),
    **rows.counts,
    "selected_step": best,
    "candidates": table,
  }
