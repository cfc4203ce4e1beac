# SPDX-License-Identifier: Apache-2.0
"""Trains several reward models on one trunk: heads, or adapters in two phases.

All members are trained on the same labels (arXiv:2401.16635, section 3).
`ScorerConfig.reward_dir` loads them as one reward (`ScorerConfig.aggregate`).
For independent members run `train_reward` with several seeds and list its
models in `ScorerConfig.more_reward_dirs`.
"""

from __future__ import annotations


from rlaif_jax.core import job_spec
from rlaif_jax.core import records
from rlaif_jax.core import rng
from rlaif_jax.core import compute as compute_lib
from rlaif_jax.data import datasets
from rlaif_jax.data import preference_batches
from rlaif_jax.data import preferences
from rlaif_jax.engine import loop
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.engine import optimizer as optimizer_lib
from rlaif_jax.evaluation import agreement
from rlaif_jax.model_io import initialization
from rlaif_jax.model_io import pretrained
from rlaif_jax.reward import ensemble as ensemble_lib
from rlaif_jax.reward import ensemble_training
from rlaif_jax.reward import pair_scoring

JOB = job_spec.JobSpec(multihost=True)


def run(
  *,
  output_dir: str,
  labels: preferences.LabelsConfig,
  init_from: str,
  ensemble: ensemble_lib.EnsembleConfig,
  optimizer: optimizer_lib.OptimizerConfig = optimizer_lib.OptimizerConfig(),
  adapters: optimizer_lib.OptimizerConfig | None = None,
  train: loop.TrainConfig = loop.TrainConfig(epochs=2.5),
  compute: compute_lib.ComputeConfig = compute_lib.ComputeConfig(),
  name: str = "ensemble",
) -> records.Row:
  """Trains, and writes `output_dir`/model and test_rewards.jsonl.

  Args:
    output_dir: output directory; a second start resumes there.
    labels: labelled pairs, and held-out human labels for the accuracy.
    init_from: finished language model whose trunk the members share.
    ensemble: ensemble of kind "heads", trained together with the trunk, or
      "lora": trunk and heads are trained on the first share of the labels,
      then adapters and heads on the rest, with the trunk frozen.
    optimizer: optimizer of trunk and heads.
    adapters: optimizer of the second phase of a lora ensemble.
    train: length of each phase, batch size and seed.
    compute: devices and memory.
    name: name of the finished model.
  """
  ensemble_training.check(ensemble, adapters)
  devices = mesh_lib.make_mesh(compute.mesh)
  placement = compute.placement.policy
  # 1. Labels to tokens.
  loaded = pretrained.load(init_from, "language", devices, placement)
  _, start = pretrained.split_params(loaded)
  tokens = (start.tokenizer, start.sequence)
  test_labels = labels.read_test()
  test_pairs, _ = preferences.make_encoder(*tokens)(test_labels)
  rows = datasets.TrainingRows(labels.read(), labels.encoder(*tokens))
  # 2. Heads in one phase; adapters in two.
  functions = pretrained.scalar_model(start.config, devices, compute)
  trainer = ensemble_training.Trainer(
    functions=functions,
    source=preference_batches.PairBatches(
      rows,
      devices,
      batch_size=train.batch_size,
      microbatches=compute.microbatches,
      can_pack=functions.is_causal,
    ),
    devices=devices,
    train=train,
    microbatches=compute.microbatches,
  )
  params = initialization.ensemble_params(
    functions,
    ensemble,
    loaded,
    devices,
    rng.key(train.seed, "init"),
    placement,
  )
  del loaded  # Only the copy of its trunk is trained.
  everything, first = range(len(rows)), 0
  if ensemble.kind == "lora":
    first = round(len(rows) * ensemble.first_phase)
    if first:
      params = trainer.fit_trunk(
        ensemble,
        params,
        everything[:first],
        optimizer,
        f"{output_dir}/trunk",
        f"{name}, trunk",
      )
    optimizer = adapters
  params = trainer.fit(
    ensemble, params, everything[first:], optimizer, output_dir, name
  )
  # 3. The finished model.
  pretrained.save_like(
    f"{output_dir}/model",
    params,
    start,
    name=name,
    kind="ensemble",
    ensemble=ensemble,
  )
  # 4. Its rewards of the held-out pairs: means, and deviations of margins.
  rewards = ensemble_training.predict_members(
    functions, ensemble, params, test_pairs, train.batch_size
  )
  means = rewards.mean(axis=1)
  deviation = (rewards[0] - rewards[1]).std(axis=0)
  pair_scoring.write_test_rewards(
    output_dir, test_labels, means, deviation=deviation
  )
  return {
    "model": f"{output_dir}/model",
    "labels": len(rows),
    **rows.counts,
    **agreement.reward_accuracy(means, test_labels),
    "member_accuracy": [
      agreement.reward_accuracy(member, test_labels)["accuracy"]
      for member in rewards.swapaxes(0, 1)
    ],
    "deviation": float(deviation.mean()),
  }
