# SPDX-License-Identifier: Apache-2.0
"""Labels pairs by simulated humans, a biased AI or a reward model.

Humans make independent errors. An AI makes systematic errors (its bias). A
reward model of the proxy's size errs outside of its own training data. All
labelers of a seed label the same pairs.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

import numpy as np

from rlaif_jax.core import batches
from rlaif_jax.core import rng
from rlaif_jax.core import validation
from rlaif_jax.experiments import toy_numbers
from rlaif_jax.experiments import toy_rewards
from rlaif_jax.experiments import toy_task
from rlaif_jax.experiments import seed_data
from rlaif_jax.reward import ensemble as ensemble_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToyLabelerConfig(validation.Validated):
  """One labeler.

  Attributes:
    flip: probability that a label is flipped, independently for each pair.
    bias: error of its word values, in standard deviations of a word's value
      (`toy_task.World.biased`). The labelers of a seed have the same bias,
      scaled by this number.
    pairs: 0 labels by word values; a positive number trains a reward model on
      this many other pairs, labelled as above, which gives soft labels,
      sigmoid(margin).
  """

  flip: Annotated[float, validation.Bounds(ge=0, le=0.5)] = 0.0
  bias: validation.NonNegativeFloat = 0.0
  pairs: validation.NonNegativeInt = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToyLabelsConfig(validation.Validated):
  """Labels of the pairs by one labeler, or of equal parts by several.

  Attributes:
    labelers: one for each part of the pairs.
    order: "mixed" trains on all parts together, "sequential" on one after the
      other, with the same number of updates.
  """

  labelers: tuple[ToyLabelerConfig, ...]
  order: Literal["mixed", "sequential"] = "mixed"

  def __post_init__(self):
    super().__post_init__()
    if not self.labelers:
      raise ValueError(
        "ToyLabelsConfig.labelers is empty; it must have at least one labeler"
      )


def train(
  trainer: toy_rewards.ProxyTrainer,
  data: seed_data.SeedData,
  ensemble: ensemble_lib.EnsembleConfig,
  config: ToyLabelsConfig,
) -> toy_rewards.Proxy:
  """Trains a proxy on the pairs of the seed with the labels of the config.

  Its numbers include `label_accuracy`, the agreement of labels with gold.
  """
  rows = len(data.train.label)
  cuts = np.linspace(0, rows, len(config.labelers) + 1).astype(int)
  parts = [range(*cuts[i : i + 2]) for i in range(len(config.labelers))]
  labels = np.concatenate(
    [
      label(trainer, data, labeler)[part]
      for labeler, part in zip(config.labelers, parts, strict=True)
    ]
  )
  proxy = trainer.train(
    data,
    ensemble,
    data.train.replace(label=labels),
    sequential=parts if config.order == "sequential" else None,
  )
  right = toy_numbers.accuracy(data.train_margins, labels)
  numbers = {**proxy.numbers, "label_accuracy": right}
  return dataclasses.replace(proxy, numbers=numbers)


def label(
  trainer: toy_rewards.ProxyTrainer,
  data: seed_data.SeedData,
  labeler: ToyLabelerConfig,
) -> np.ndarray:
  """Returns labels [pairs] of all training pairs of the seed."""
  if not labeler.pairs:
    return _hard_labels(data, labeler, data.train, "labels")
  pairs, _ = seed_data.sample_pairs(
    trainer.programs, data, labeler.pairs, "labeler"
  )
  pairs = pairs.replace(label=_hard_labels(data, labeler, pairs, "labeler"))
  single = ensemble_lib.EnsembleConfig()
  params = trainer.train(data, single, pairs).unit.params
  (margins,) = toy_rewards.pair_margins(
    trainer.rewards(single), params, data.train
  )
  return (1.0 / (1.0 + np.exp(-margins))).astype(np.float32)


def _hard_labels(
  data: seed_data.SeedData,
  labeler: ToyLabelerConfig,
  pairs: batches.PairBatch,
  name: str,
) -> np.ndarray:
  """Labels pairs by biased word values, with random flips."""
  world = data.world.biased(
    labeler.bias, rng.numpy_generator(data.seed, "taste")
  )
  margins = _score(world, pairs.first) - _score(world, pairs.second)
  generator = rng.numpy_generator(data.seed, name)
  return seed_data.flipped_labels(margins, labeler.flip, generator)


def _score(world: toy_task.World, batch: batches.TokenBatch) -> np.ndarray:
  columns = batch.weights.shape[1]
  prompt, response = batch.tokens[:, :-columns], batch.tokens[:, -columns:]
  return world.gold(prompt, response, batch.weights)
