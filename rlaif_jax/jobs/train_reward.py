# SPDX-License-Identifier: Apache-2.0
"""Trains a reward model on labelled pairs: soft AI labels or hard human ones.

The loss is the same cross-entropy for both (`reward.kinds`). Optionally also
trains on growing numbers of labels, for the curve of accuracy against labels.
"""

from __future__ import annotations


from rlaif_jax.core import compute as compute_lib
from rlaif_jax.core import job_spec
from rlaif_jax.core import records
from rlaif_jax.core import rng
from rlaif_jax.core import jsonl
from rlaif_jax.data import datasets
from rlaif_jax.data import preference_batches
from rlaif_jax.data import preferences
from rlaif_jax.engine import loop
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.engine import optimizer as optimizer_lib
from rlaif_jax.engine import step as step_lib
from rlaif_jax.evaluation import agreement
from rlaif_jax.model_io import initialization
from rlaif_jax.model_io import pretrained
from rlaif_jax.model_io import trainable
from rlaif_jax.reward import kinds
from rlaif_jax.reward import pair_scoring

JOB = job_spec.JobSpec(multihost=True)


def run(
  *,
  output_dir: str,
  labels: preferences.LabelsConfig,
  init_from: str,
  reward: kinds.RewardModelConfig = kinds.RewardModelConfig(),
  optimizer: optimizer_lib.OptimizerConfig = optimizer_lib.OptimizerConfig(),
  train: loop.TrainConfig = loop.TrainConfig(epochs=2.5),
  compute: compute_lib.ComputeConfig = compute_lib.ComputeConfig(),
  name: str = "reward",
) -> records.Row:
  """Trains, and writes `output_dir`/model and reward_accuracy.jsonl.

  Args:
    output_dir: output directory; a second start resumes there.
    labels: labelled pairs, and held-out human labels for the accuracy.
    init_from: finished language model whose trunk initialises the reward model
      (the paper: the SFT model for AI labels, the base model for human ones).
    reward: kind of reward model, and its loss.
    optimizer: optimizer; the paper's is Adafactor at 1e-5.
    train: length (paper: 2-3 epochs), batch size (paper: 128 pairs for
      summaries, 32 for dialogues) and seed.
    compute: devices and memory.
    name: name of the finished model.
  """
  devices = mesh_lib.make_mesh(compute.mesh)
  placement = compute.placement.policy
  # 1. Labels to tokens.
  loaded = [pretrained.load(init_from, "language", devices, placement)]
  _, start = pretrained.split_params(loaded[0])
  tokens = (start.tokenizer, start.sequence)
  kinds.check_fits(
    reward,
    start.sequence,
    start.tokenizer,
    vocab_size=start.config.vocab_size,
    max_length=start.config.max_length,
  )
  test_labels = labels.read_test()
  test_pairs, _ = preferences.make_encoder(*tokens)(test_labels)
  rows = datasets.TrainingRows(
    labels.read(on_demand=True), labels.encoder(*tokens)
  )
  # 2. One update step for all numbers of labels, compiled once.
  functions = pretrained.scalar_model(start.config, devices, compute)
  score_pairs = kinds.make_pair_scorer(reward.kind, functions)
  tx = optimizer_lib.make_optimizer(optimizer, trains_adapters=True)
  step = step_lib.make_train_step(
    kinds.make_loss(reward, functions),
    tx,
    microbatches=compute.microbatches,
    combine=trainable.combine(optimizer.lora),
  )
  source = preference_batches.PairBatches(
    rows,
    devices,
    batch_size=train.batch_size,
    microbatches=compute.microbatches,
    can_pack=kinds.can_pack(reward, functions),
  )

  def fit(count: int, directory: str, run_name: str):
    # The first model takes the loaded trunk, so that no second copy stays.
    trunk = (
      loaded or [pretrained.load(init_from, "language", devices, placement)]
    ).pop()
    params = initialization.scalar_params(
      functions, trunk, devices, rng.key(train.seed, "init"), placement
    )
    learned, frozen = trainable.split(
      params, optimizer.lora, devices, rng.key(train.seed, "lora")
    )
    state = step_lib.state_from_params(learned, tx, devices)
    del trunk, params, learned  # The state owns them.
    state = loop.fit(
      state,
      lambda state, batch, key: step(state, batch, key, frozen.params),
      lambda state, number: source.at_step(
        number, range(count), seed=train.seed, name=run_name
      ),
      config=train,
      num_rows=count,
      directory=directory,
      name=run_name,
    )
    return frozen.merged(state.params)

  def measure(params):
    rewards = pair_scoring.predict_pairs(
      score_pairs, params, test_pairs, train.batch_size
    )
    return rewards, agreement.reward_accuracy(rewards, test_labels)

  # 3. The learning curve, then all labels.
  curve = []
  for count in sorted({c for c in reward.label_counts if c < len(rows)}):
    params = fit(count, f"{output_dir}/labels_{count}", f"{name}_{count}")
    curve.append({"labels": count, **measure(params)[1]})
    del params  # Frees the memory for the next model.
  params = fit(len(rows), output_dir, name)
  rewards, accuracy = measure(params)
  curve.append({"labels": len(rows), **accuracy})
  # 4. The finished model, and its rewards of the held-out pairs.
  pretrained.save_like(
    f"{output_dir}/model", params, start, name=name, kind=reward.kind
  )
  pair_scoring.write_test_rewards(output_dir, test_labels, rewards)
  jsonl.write_rows(f"{output_dir}/reward_accuracy.jsonl", curve)
  return {"model": f"{output_dir}/model", **rows.counts, **curve[-1]}
