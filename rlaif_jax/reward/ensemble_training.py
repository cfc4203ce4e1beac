# SPDX-License-Identifier: Apache-2.0
"""Trains the members of an ensemble on one trunk, and scores pairs with them.

Heads are trained with the trunk in one phase. A lora ensemble has two: trunk
and heads on the first share of the labels, then adapters and heads on the rest,
with the trunk frozen.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from jaxtyping import Float
import numpy as np

from rlaif_jax.core import batches
from rlaif_jax.core import protocols
from rlaif_jax.data import preference_batches
from rlaif_jax.engine import loop
from rlaif_jax.engine import optimizer as optimizer_lib
from rlaif_jax.engine import step as step_lib
from rlaif_jax.reward import ensemble as ensemble_lib
from rlaif_jax.reward import model as reward_model
from rlaif_jax.reward import pair_scoring


def check(
  ensemble: ensemble_lib.EnsembleConfig,
  adapters: optimizer_lib.OptimizerConfig | None,
) -> None:
  """Checks that the members share a trunk, and adapters have an optimizer.

  Raises:
    ValueError: if the options conflict.
  """
  if ensemble.kind == "independent":
    raise ValueError(
      "EnsembleConfig.kind is 'independent'; members of train_ensemble share a "
      "trunk, 'heads' or 'lora'. For independent members run train_reward "
      "with several seeds and list its models in ScorerConfig.more_reward_dirs"
    )
  if ensemble.bootstrap:
    raise ValueError(
      "EnsembleConfig.bootstrap is True; members of one trunk are trained on "
      "the same labels, set it to False"
    )
  if (ensemble.kind == "lora") != (adapters is not None):
    raise ValueError(
      f"EnsembleConfig.kind is {ensemble.kind!r} and train_ensemble.adapters "
      f"is {adapters}; set adapters for a lora ensemble, and only then"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trainer:
  """Trains members in phases.

  Attributes:
    functions: the scalar model of one member.
    source: batches of labelled pairs.
    devices: mesh.
    train: length, batch size and seed of each phase.
    microbatches: number of gradient-accumulation steps per update.
  """

  functions: protocols.ScalarModel
  source: preference_batches.PairBatches
  devices: jax.sharding.Mesh
  train: loop.TrainConfig
  microbatches: int

  def fit(
    self,
    ensemble: ensemble_lib.EnsembleConfig,
    params: protocols.Params,
    rows: range,
    optimizer: optimizer_lib.OptimizerConfig,
    directory: str,
    name: str,
  ) -> protocols.Params:
    """Returns the parameters after training heads and trunk, or adapters and
    heads of a lora ensemble.

    Args:
      ensemble: the ensemble.
      params: initial parameters; donated.
      rows: indices of the labels of this phase.
      optimizer: optimizer of the trained parameters.
      directory: output directory of the phase.
      name: name of the phase and its random streams.
    """
    trained, frozen, combine = params, None, None
    if ensemble.kind == "lora":
      trained, frozen = params["members"], params["shared"]
      combine = lambda members, shared: {"shared": shared, "members": members}
    tx = optimizer_lib.make_optimizer(optimizer)
    update = step_lib.make_train_step(
      ensemble_lib.make_loss(self.functions, ensemble),
      tx,
      microbatches=self.microbatches,
      combine=combine,
    )

    def next_batch(state, step):
      del state
      pairs = self.source.at_step(step, rows, seed=self.train.seed, name=name)
      return ensemble_lib.MemberPairs(pairs=pairs, weights=None)

    trained = loop.fit(
      step_lib.state_from_params(trained, tx, self.devices),
      lambda state, batch, key: update(state, batch, key, frozen),
      next_batch,
      config=self.train,
      num_rows=len(rows),
      directory=directory,
      name=name,
    ).params
    return combine(trained, frozen) if combine else trained

  def fit_trunk(
    self,
    ensemble: ensemble_lib.EnsembleConfig,
    params: protocols.Params,
    *arguments: Any,
  ) -> protocols.Params:
    """Returns the parameters after training a lora ensemble's trunk and heads.

    Args:
      ensemble: the ensemble.
      params: initial parameters; donated.
      *arguments: see `fit`.
    """
    members = dict(params["members"])
    adapters = members.pop("adapters")
    heads = dataclasses.replace(ensemble, kind="heads", diversity=0.0)
    params = self.fit(heads, {**params, "members": members}, *arguments)
    return {**params, "members": {**params["members"], "adapters": adapters}}


def predict_members(
  functions: protocols.ScalarModel,
  ensemble: ensemble_lib.EnsembleConfig,
  params: protocols.Params,
  pairs: batches.PairBatch,
  batch_size: int,
) -> Float[np.ndarray, "2 k n"]:
  """Returns each member's rewards of both responses of n pairs: [2, k, n]."""

  @jax.jit
  def score(params, part):
    def member(whole):
      return reward_model.pair_rewards(functions, whole, part)

    return ensemble_lib.of_members(member, ensemble, params)

  return np.stack(pair_scoring.predict_pairs(score, params, pairs, batch_size))
