# SPDX-License-Identifier: Apache-2.0
"""Weights labelled pairs by the reward margin of a model.

Implements reward difference optimization (arXiv:2408.09385). The weights are
stored in the labels, where `train_dpo` and `train_reward` read them. The
paper's model reads both responses together (`train_reward` with
kind="difference"); a pointwise reward model, shuffled weights and the half with
the largest margins are baselines.
"""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.core import rng
from rlaif_jax.data import preferences
from rlaif_jax.engine import checkpoint
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.evaluation import agreement
from rlaif_jax.model_io import pretrained
from rlaif_jax.ops import pair_choice
from rlaif_jax.reward import kinds
from rlaif_jax.reward import pair_scoring


def run(
  *,
  output_dir: str,
  labels_file: str,
  model_dir: str,
  weights: str = "margin",
  batch_size: int = 64,
  mesh: str = "data:-1",
  seed: int = 0,
) -> records.Row:
  """Writes labels.jsonl: the labels with a weight for every pair.

  Args:
    output_dir: output directory.
    labels_file: labels.jsonl of the `label` job.
    model_dir: reward model or difference model of `train_reward`, preferably
      not trained on these labels.
    weights: "margin" is the margin of the preferred response, 0 if the model
      disagrees with the label; "shuffled" permutes these weights over the
      pairs; "top" is the half of the pairs with the largest margins.
    batch_size: number of pairs per device call.
    mesh: sizes of the mesh axes; see `engine.mesh.make_mesh`.
    seed: seed of the permutation.
  """
  devices = mesh_lib.make_mesh(mesh)
  kind = checkpoint.read_description(model_dir)["kind"]
  if kind not in kinds.KINDS:
    raise ValueError(
      f"{model_dir} is a {kind} model; use a scalar or difference model of "
      "train_reward"
    )
  model = pretrained.load(model_dir, kind, devices)
  labels = preferences.read_labels(labels_file)
  encode = preferences.make_encoder(model.tokenizer, model.sequence)
  pairs, cut = encode(labels)
  rewards = pair_scoring.predict_pairs(
    kinds.make_pair_scorer(kind, model.functions),
    model.params,
    pairs,
    batch_size,
  )
  margin = rewards[0] - rewards[1]
  # The margin of a tie is 0.
  margins = margin * np.sign(pairs.label - 0.5)
  generator = rng.numpy_generator(seed, "weights")
  values = pair_choice.weights(margins, weights, generator)
  rows = [
    dataclasses.replace(label, weight=float(weight))
    for label, weight in zip(labels, values, strict=True)
  ]
  path = pathlib.Path(output_dir) / "labels.jsonl"
  jsonl.write_records(path, rows)
  return {
    "labels": str(path),
    "next": (
      "python -m rlaif_jax.main --job=train_dpo --gin_file=RECIPE "
      f"--labels_file={path} --policy_dir=MODEL --output_dir=NEW_DIR"
    ),
    "kind": kind,
    **agreement.reward_accuracy(rewards, labels),
    "without_weight": float(np.mean(values == 0)),
    # Effective sample size.
    "effective_pairs": float(values.sum() ** 2 / np.sum(values**2)),
    **cut,
  }
