# SPDX-License-Identifier: Apache-2.0
"""Who labels the rig's pairs: people, an AI with a taste, a model of one's own.

People err now and then, each time anew; an AI errs in the same way each time
(its taste), and a model of the proxy's own size errs where its own data end.
All labelers of a seed look at the same pairs.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from rlaif_jax.core import batches
from rlaif_jax.core import rng
from rlaif_jax.experiments import toy_numbers
from rlaif_jax.experiments import toy_rewards
from rlaif_jax.experiments import seed_data
from rlaif_jax.reward import ensemble as ensemble_lib

ORDERS = ("mixed", "in_turn")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToyLabelerConfig:
  """One labeler.

  Fields:
    flip: chance that a label is turned, drawn for each pair.
    taste: how wrong its word values are, in standard deviations of a word's
      value (`rig_world.World.tasted`). All labelers of a seed have the same
      taste, more or less of it.
    pairs: where positive, it is a reward model trained on so many other pairs
      with labels by the above, and gives soft labels, sigmoid(margin).
  """

  flip: float = 0.0
  taste: float = 0.0
  pairs: int = 0

  def __post_init__(self):
    if not 0.0 <= self.flip <= 0.5 or self.taste < 0 or self.pairs < 0:
      raise ValueError(
        f"ToyLabelerConfig: flip is {self.flip}, taste {self.taste} and pairs "
        f"{self.pairs}; flip must be in [0, 0.5], the others at least 0"
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelsConfig:
  """Labels of the rig's pairs by one labeler, or halves of them by two.

  `order`: a proxy sees the halves "mixed", or the first labeler's and then the
  second's ("in_turn"); it takes as many updates either way.
  """

  labelers: tuple[ToyLabelerConfig, ...]
  order: str = "mixed"

  def __post_init__(self):
    if not self.labelers:
      raise ValueError("LabelsConfig.labelers is empty; name at least one")
    if self.order not in ORDERS:
      raise ValueError(
        f"LabelsConfig.order is {self.order!r}; use one of {ORDERS}"
      )


def train(
  trainer: toy_rewards.Trainer,
  setting: seed_data.Setting,
  ensemble: ensemble_lib.EnsembleConfig,
  config: LabelsConfig,
) -> toy_rewards.Proxy:
  """A proxy of the setting's pairs as these labelers see them.

  Its numbers have `label_accuracy`, the share of labels that gold shares.
  """
  rows = len(setting.train.label)
  cuts = np.linspace(0, rows, len(config.labelers) + 1).astype(int)
  parts = [range(*cuts[i : i + 2]) for i in range(len(config.labelers))]
  labels = np.concatenate(
    [
      label(trainer, setting, labeler)[part]
      for labeler, part in zip(config.labelers, parts, strict=True)
    ]
  )
  proxy = trainer.train(
    setting,
    ensemble,
    setting.train.replace(label=labels),
    in_turn=parts if config.order == "in_turn" else None,
  )
  right = toy_numbers.accuracy(setting.train_gaps, labels)
  numbers = {**proxy.numbers, "label_accuracy": right}
  return dataclasses.replace(proxy, numbers=numbers)


def label(
  trainer: toy_rewards.Trainer,
  setting: seed_data.Setting,
  labeler: ToyLabelerConfig,
) -> np.ndarray:
  """[pairs] labels of all of the setting's pairs."""
  if not labeler.pairs:
    return _judged(setting, labeler, setting.train, "labels")
  pairs, _ = seed_data.sample_pairs(
    trainer.programs, setting, labeler.pairs, "labeler"
  )
  pairs = pairs.replace(label=_judged(setting, labeler, pairs, "labeler"))
  single = ensemble_lib.EnsembleConfig()
  params = trainer.train(setting, single, pairs).unit.params
  (margins,) = toy_rewards.pair_margins(
    trainer.rewards(single), params, setting.train
  )
  return (1.0 / (1.0 + np.exp(-margins))).astype(np.float32)


def _judged(
  setting: seed_data.Setting,
  labeler: ToyLabelerConfig,
  pairs: batches.PairBatch,
  name: str,
) -> np.ndarray:
  """Hard labels by gold and taste, some of them turned."""
  world = setting.world.tasted(
    labeler.taste, rng.numpy_generator(setting.seed, "taste")
  )
  gaps = _score(world, pairs.first) - _score(world, pairs.second)
  generator = rng.numpy_generator(setting.seed, name)
  return seed_data.turned_labels(gaps, labeler.flip, generator)


def _score(world: Any, batch: batches.TokenBatch) -> np.ndarray:
  columns = batch.weights.shape[1]
  prompt, response = batch.tokens[:, :-columns], batch.tokens[:, -columns:]
  return world.gold(prompt, response, batch.weights)
