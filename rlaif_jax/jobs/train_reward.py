# SPDX-License-Identifier: Apache-2.0
"""Trains a reward model on labelled pairs: soft AI labels or hard human ones.

The loss is the same cross-entropy for both. Also trains on growing numbers of
labels when asked, for the curve of accuracy against labels, and difference
models, which read both candidates together.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from typing import Any, Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from rlaif_jax.core import batches
from rlaif_jax.core import job_spec
from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.data import converters
from rlaif_jax.engine import loop
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.engine import optimizer as optimizer_lib
from rlaif_jax.engine import processes
from rlaif_jax.engine import step as step_lib
from rlaif_jax.model_io import pretrained
from rlaif_jax.ops import pair_accuracy
from rlaif_jax.data import preference_batches
from rlaif_jax.api import reward_loading
from rlaif_jax.data import datasets
from rlaif_jax.models import architectures
from rlaif_jax.reward import difference
from rlaif_jax.reward import model as reward_model

# What a model may read: one response, or two together.
KINDS = ("scalar", "difference")

JOB = job_spec.JobSpec(multihost=True)


def run(
  *,
  output_dir: str,
  labels_file: str,
  test_labels_file: str,
  init_from: str,
  optimizer: optimizer_lib.OptimizerConfig,
  kind: str = "scalar",
  epochs: float = 2.5,
  batch_size: int = 128,
  save_every: int = 100,
  label_counts: tuple[int, ...] = (),
  hard_labels: bool = False,
  label_smoothing: float = 0.0,
  microbatches: int = 1,
  remat: str = "none",
  scan_layers: bool = False,
  mesh: str = "data:-1",
  seed: int = 0,
  name: str = "reward",
) -> dict[str, Any]:
  """Trains, and writes `output_dir`/model and reward_accuracy.jsonl.

  Args:
    output_dir: where everything goes; a second start continues there.
    labels_file: labels.jsonl of the `label` job.
    test_labels_file: held-out human labels; accuracy is measured on them.
    init_from: finished language model whose trunk starts the reward model
      (the paper: the SFT model for AI labels, the base for human ones).
    optimizer: the paper's default is Adafactor at 1e-5.
    kind: "scalar" gives one response a reward, as the paper does; "difference"
      reads two together and says how much better the first is
      (`reward.difference`), for `weigh` and for `train_online_dpo`.
    epochs: passes over the labels (paper: 2-3).
    batch_size: pairs per update (paper: 128 for summaries, 32 else).
    save_every: updates between checkpoints.
    label_counts: also train on the first n labels for each n, from the same
      start and for the same number of epochs, and measure.
    hard_labels: round soft labels to 0 or 1 (0.5 stays).
    label_smoothing: see `ops.preference.pair_logistic`; 0 in the paper.
    microbatches: parts of a batch whose gradients are added.
    remat: what the backward pass keeps of each layer; see `train_sft`.
    scan_layers: layers are one loop; see `train_sft`.
    mesh: devices.
    seed: of the order.
    name: of the finished model.
  """
  if kind not in KINDS:
    raise ValueError(f"kind is {kind!r}; use one of {KINDS}")
  devices = mesh_lib.make_mesh(mesh)
  # 1. Labels to tokens.
  loaded = [pretrained.load(init_from, "language", devices)]
  _, start = pretrained.apart(loaded[0])
  labels = read_labels(labels_file, on_demand=True)
  test_labels = read_labels(test_labels_file)
  rows = datasets.TrainingRows(labels, encoder(start, hard=hard_labels))
  test_pairs, _ = encoder(start)(test_labels)
  # 2. One update step for all sizes: the compiled program is shared.
  how = architectures.Execution(
    remat=remat,
    scan_layers=scan_layers,
    split_by=mesh_lib.activation_sharding(devices),
  )
  functions = architectures.scalar(start.config, how)
  loss, can_pack = training_of(kind, start, functions, label_smoothing)
  score_pairs = pair_scorer(kind, functions)
  tx = optimizer_lib.make_optimizer(optimizer)
  step = step_lib.make_train_step(loss, tx, microbatches=microbatches)
  source = preference_batches.PairBatches(
    rows,
    devices,
    batch_size=batch_size,
    microbatches=microbatches,
    can_pack=can_pack,
  )

  def train(count: int, directory: str, run_name: str):
    num_steps = max(1, math.ceil(epochs * count / batch_size))
    # The first takes what is loaded, so that it does not stay beside it.
    trunk = (loaded or [pretrained.load(init_from, "language", devices)]).pop()
    params = reward_loading.scalar_params(functions, trunk, devices, seed)
    del trunk
    state = step_lib.state_from_params(params, tx, devices)

    def next_batch(state, number):
      del state
      return source.at_step(number, range(count), seed=seed, name=run_name)

    return loop.fit(
      state,
      step,
      next_batch,
      config=loop.LoopConfig(num_steps=num_steps, save_every=save_every),
      seed=seed,
      directory=directory,
      name=run_name,
    ).params

  # 3. Growing numbers of labels, then all of them.
  curve = []
  for count in sorted({*(c for c in label_counts if c < len(labels))}):
    params = train(count, f"{output_dir}/labels_{count}", f"{name}_{count}")
    rewards = predict(score_pairs, params, test_pairs, batch_size)
    curve.append({"labels": count, **accuracy(rewards, test_labels)})
    del params  # Before the next ones are made.
  params = train(len(labels), output_dir, name)
  rewards = predict(score_pairs, params, test_pairs, batch_size)
  curve.append({"labels": len(labels), **accuracy(rewards, test_labels)})
  # 4. The finished model, and what it says of the held-out pairs.
  pretrained.save_like(
    f"{output_dir}/model", params, start, name=name, kind=kind
  )
  write_test_rewards(output_dir, test_labels, rewards)
  jsonl.write_rows(f"{output_dir}/reward_accuracy.jsonl", curve)
  return {
    "model": f"{output_dir}/model",
    "labels": len(labels),
    **rows.counts,
    **curve[-1],
  }


def training_of(kind, start, functions, label_smoothing):
  """The loss of a kind of model, and whether it reads packed pairs.

  Raises:
    ValueError: an option that a difference model has no use for, or texts too
      long for it.
  """
  if kind == "scalar":
    loss = reward_model.make_loss(functions, label_smoothing=label_smoothing)
    return loss, functions.last_packed is not None
  if label_smoothing:
    raise ValueError(
      f"label_smoothing is {label_smoothing}, and a difference model takes "
      "labels as they are; leave it 0"
    )
  sequence = start.sequence
  both = dataclasses.replace(sequence, max_response=2 * sequence.max_response)
  converters.check_fits(
    both,
    start.tokenizer,
    vocab_size=start.config.vocab_size,
    max_length=start.config.max_length,
  )
  return difference.make_loss(functions), False


def pair_scorer(kind, functions):
  """The jitted (params, pairs) -> rewards of both candidates: [B], [B].

  Of a difference model the first is the margin, and the second 0.
  """

  def of_difference(params, pairs):
    margin = difference.difference(functions, params, pairs.first, pairs.second)
    return margin, jnp.zeros_like(margin)

  if kind == "difference":
    return jax.jit(of_difference)
  return jax.jit(functools.partial(reward_model.pair_rewards, functions))


def read_labels(
  path: str, on_demand: bool = False
) -> Sequence[records.Preference]:
  """Labelled pairs of a file; `on_demand` as in `loading.load_examples`.

  Raises:
    ValueError: a bad line (named), or no rows at all.
  """
  several = on_demand and jax.process_count() > 1
  labels = jsonl.open_records(records.Preference, path, on_demand=several)
  if not labels:
    raise ValueError(f"{path} has no labels; run the label job to its end")
  return labels


def encoder(
  model: pretrained.Loaded, *, hard: bool = False
) -> Callable[..., tuple[batches.PairBatch, dict[str, int]]]:
  """Labels -> pairs in a model's tokens, and counts; `hard` rounds labels."""

  def encode(labels):
    found = converters.encode_preferences(
      labels, model.tokenizer, model.sequence
    )
    return hardened(*found) if hard else found

  return encode


def hardened(pairs: batches.PairBatch, counts: dict[str, int]):
  """Encoded pairs with labels of 0, 0.5 or 1, and their counts."""
  label = np.where(pairs.label == 0.5, 0.5, np.round(pairs.label))
  return pairs.replace(label=label.astype(np.float32)), counts


def predict(score_pairs, params, pairs, batch_size):
  """Scores of both candidates of every pair: two float arrays [..., n].

  `score_pairs` gives two [..., B] of a batch.
  """
  first, second = [], []
  for rows, real in converters.chunks(pairs.label.shape[0], batch_size):
    scores = score_pairs(params, converters.take(pairs, rows))
    a, b = processes.to_host(scores)
    first.append(a[..., :real])
    second.append(b[..., :real])
  return np.concatenate(first, axis=-1), np.concatenate(second, axis=-1)


def write_test_rewards(
  directory: str | os.PathLike,
  labels: Sequence[records.Preference],
  rewards: Sequence[np.ndarray],
  **more: np.ndarray,
) -> None:
  """Writes test_rewards.jsonl: rewards of both candidates of each pair.

  `more` has further numbers, one a pair.
  """
  columns = {"first": rewards[0], "second": rewards[1], **more}
  rows = [
    {
      "id": label.id,
      "label": label.p_first,
      **{name: float(values[i]) for name, values in columns.items()},
    }
    for i, label in enumerate(labels)
  ]
  jsonl.write_rows(f"{directory}/test_rewards.jsonl", rows)


def accuracy(rewards, labels) -> dict[str, float]:
  """Pairwise accuracy against held-out labels; ties count half."""
  margin = rewards[0] - rewards[1]
  target = np.asarray([p.p_first for p in labels])
  correct = pair_accuracy.correct(margin, target)
  return {
    "accuracy": float(np.mean(correct)),
    "correct": float(np.sum(correct)),
    "n": len(labels),
  }
