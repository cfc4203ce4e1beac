# SPDX-License-Identifier: Apache-2.0
"""Weighs labelled pairs by how much better a model finds the winner.

Reward difference optimisation (arXiv:2408.09385): the weights are data, so
`train_dpo` and `train_reward` read them like labels. The paper's model reads
both responses together (`train_reward` with kind="difference"); a pointwise
reward model, shuffled weights and the half with the largest gaps are there to
compare with.
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import numpy as np

from rlaif_jax.core import jsonl
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
) -> dict[str, Any]:
  """Writes labels.jsonl, as it was and with the weight of every pair.

  Args:
    output_dir: where everything goes.
    labels_file: labels.jsonl of the `label` job.
    model_dir: reward model or difference model of `train_reward`; best one
      that has not learned from these very labels.
    weights: "margin" of the winner, 0 where the model disagrees with the label;
      "shuffled" over the pairs; or "top", the half with the largest margins.
    batch_size: pairs per device call.
    mesh: devices.
    seed: of shuffling.
  """
  devices = mesh_lib.make_mesh(mesh)
  kind = checkpoint.read_description(model_dir)["kind"]
  if kind not in kinds.KINDS:
    raise ValueError(
      f"{model_dir} holds a {kind} model; a weight comes from a scalar or a "
      "difference model of train_reward"
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
  # Nobody wins a tie, so it has no gap.
  gaps = margin * np.sign(pairs.label - 0.5)
  generator = rng.numpy_generator(seed, "weights")
  found = pair_choice.weights(gaps, weights, generator)
  rows = [
    dataclasses.replace(label, weight=float(weight))
    for label, weight in zip(labels, found, strict=True)
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
    "without_weight": float(np.mean(found == 0)),
    # So many pairs of one weight would say as much.
    "effective_pairs": float(found.sum() ** 2 / np.sum(found**2)),
    **cut,
  }
