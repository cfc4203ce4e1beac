# SPDX-License-Identifier: Apache-2.0
"""Trains a policy on labelled pairs directly, without a reward model.

Direct preference optimisation (arXiv:2305.18290) and its variants, offline. The
reference's log-probs are computed once and kept in the output directory.
"""

from __future__ import annotations

import functools
import pathlib

import jax

from rlaif_jax.core import compute as compute_lib
from rlaif_jax.core import job_spec
from rlaif_jax.core import records
from rlaif_jax.core import rng
from rlaif_jax.data import datasets
from rlaif_jax.data import preference_batches
from rlaif_jax.data import preferences
from rlaif_jax.dpo import model as dpo_model
from rlaif_jax.dpo import reference_file
from rlaif_jax.engine import loop
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.engine import optimizer as optimizer_lib
from rlaif_jax.engine import scoring
from rlaif_jax.engine import step as step_lib
from rlaif_jax.evaluation import agreement
from rlaif_jax.model_io import pretrained
from rlaif_jax.model_io import trainable
from rlaif_jax.reward import pair_scoring

JOB = job_spec.JobSpec(multihost=True)


def run(
  *,
  output_dir: str,
  labels: preferences.LabelsConfig,
  policy_dir: str,
  reference_dir: str = "",
  dpo: dpo_model.DPOConfig = dpo_model.DPOConfig(),
  optimizer: optimizer_lib.OptimizerConfig = optimizer_lib.OptimizerConfig(),
  train: loop.TrainConfig = loop.TrainConfig(epochs=1.0, batch_size=64),
  compute: compute_lib.ComputeConfig = compute_lib.ComputeConfig(),
  name: str = "dpo",
) -> records.Row:
  """Trains, and writes `output_dir`/model.

  Args:
    output_dir: output directory; a second start resumes there.
    labels: labelled pairs; held-out ones measure the accuracy of the implied
      reward.
    policy_dir: finished language model that training starts from.
    reference_dir: reference model of the KL; "": the one in policy_dir.
    dpo: objective.
    optimizer: optimizer; the paper's is RMSprop at 1e-6.
    train: length, batch size (the paper: 64 pairs) and seed.
    compute: devices and memory.
    name: name of the finished model.
  """
  devices = mesh_lib.make_mesh(compute.mesh)
  placement = compute.placement
  # 1. Labels to tokens, and their log-probs under the reference.
  start = pretrained.load(
    policy_dir, "language", devices, placement.policy, compute.attention
  )
  reference = pretrained.load_reference(
    start, devices, placement, directory=reference_dir
  )
  log_probs = functools.partial(
    pair_scoring.predict_pairs,
    jax.jit(functools.partial(scoring.pair_log_probs, start.functions)),
    batch_size=train.batch_size,
  )
  rows = labels.read()
  pairs, counts = labels.encoder(start.tokenizer, start.sequence)(rows)
  ref_log_probs = reference_file.reference_log_probs(
    pathlib.Path(output_dir) / "reference.jsonl",
    rows,
    functools.partial(log_probs, reference.params, pairs),
    reference=reference.identity,
  )
  test_labels = []
  if labels.test_labels_file:
    test_labels = labels.read_test()
    encode = preferences.make_encoder(start.tokenizer, start.sequence)
    test_pairs, _ = encode(test_labels)
    test_reference = log_probs(reference.params, test_pairs)
  del reference  # Frees its memory before training.
  # 2. The loop.
  functions = pretrained.language_model(start.config, devices, compute)
  source = preference_batches.PairBatches(
    datasets.HeldRows(pairs.replace(ref_log_probs=ref_log_probs)),
    devices,
    batch_size=train.batch_size,
    microbatches=compute.microbatches,
    can_pack=functions.is_causal,
  )
  tx = optimizer_lib.make_optimizer(optimizer, trains_adapters=True)
  step = step_lib.make_train_step(
    dpo_model.make_loss(functions, dpo),
    tx,
    microbatches=compute.microbatches,
    combine=trainable.combine(optimizer.lora),
    prepare=dpo_model.make_prepare(
      functions, dpo, microbatches=compute.microbatches
    ),
  )
  params, start = pretrained.split_params(start)
  learned, frozen = trainable.split(
    params, optimizer.lora, devices, rng.key(train.seed, "lora")
  )
  state = step_lib.state_from_params(learned, tx, devices)
  del params, learned  # The state owns them.
  state = loop.fit(
    state,
    lambda state, batch, key: step(state, batch, key, frozen.params),
    lambda state, number: source.at_step(
      number, range(len(rows)), seed=train.seed, name=name
    ),
    config=train,
    num_rows=len(rows),
    directory=output_dir,
    name=name,
  )
  # 3. The finished model, and its implied rewards of held-out pairs.
  params = trainable.save(output_dir, state.params, frozen, start, name=name)
  accuracy = {}
  if test_labels:
    policy = log_probs(params, test_pairs)
    rewards = [a - b for a, b in zip(policy, test_reference, strict=True)]
    pair_scoring.write_test_rewards(output_dir, test_labels, rewards)
    accuracy = agreement.reward_accuracy(rewards, test_labels)
  return {
    "model": f"{output_dir}/model",
    "next": (
      "python -m rlaif_jax.main --job=sample --gin_file=RECIPE "
      f"--policy_dir={output_dir}/model --output_dir=NEW_DIR"
    ),
    "labels": len(rows),
    **counts,
    **accuracy,
  }
