# SPDX-License-Identifier: Apache-2.0
"""Trains several reward models on one trunk: heads, or adapters in two phases.

Members see the same labels (arXiv:2401.16635, section 3). A policy reads them
as one reward (`ScorerConfig.reward_dir`, with its `aggregate`). Whole reward
models that have nothing in common are runs of `train_reward` with other seeds,
named together by `ScorerConfig.more_reward_dirs`.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import numpy as np

from rlaif_jax.core import job_spec
from rlaif_jax.core import protocols
from rlaif_jax.core import rng
from rlaif_jax.engine import loop
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.engine import optimizer as optimizer_lib
from rlaif_jax.engine import step as step_lib
from rlaif_jax.model_io import pretrained
from rlaif_jax.data import preference_batches
from rlaif_jax.jobs import train_reward
from rlaif_jax.data import datasets
from rlaif_jax.models import architectures
from rlaif_jax.reward import ensemble as ensemble_lib
from rlaif_jax.reward import model as reward_model

JOB = job_spec.JobSpec(multihost=True)


def run(
  *,
  output_dir: str,
  labels_file: str,
  test_labels_file: str,
  init_from: str,
  ensemble: ensemble_lib.EnsembleConfig,
  optimizer: optimizer_lib.OptimizerConfig,
  adapters: optimizer_lib.OptimizerConfig | None = None,
  epochs: float = 2.5,
  batch_size: int = 128,
  save_every: int = 100,
  hard_labels: bool = False,
  microbatches: int = 1,
  remat: str = "none",
  mesh: str = "data:-1",
  seed: int = 0,
  name: str = "ensemble",
) -> dict[str, Any]:
  """Trains, and writes `output_dir`/model and test_rewards.jsonl.

  Args:
    output_dir: where everything goes; a second start continues there.
    labels_file: labels.jsonl of the `label` job.
    test_labels_file: held-out human labels; accuracy is measured on them.
    init_from: finished language model whose trunk the members share.
    ensemble: of kind "heads", which learn together with the trunk, or "lora":
      trunk and heads learn on the first share of the labels, then adapters
      and heads on the others, while the trunk stays.
    optimizer: of trunk and heads.
    adapters: of the second phase of a lora ensemble.
    epochs: passes over the labels, in each phase over its own.
    batch_size: pairs per update.
    save_every: updates between checkpoints.
    hard_labels: round soft labels to 0 or 1 (0.5 stays).
    microbatches: parts of a batch whose gradients are added.
    remat: what the backward pass keeps of each layer; see `train_sft`.
    mesh: devices.
    seed: of the order and of what is drawn for members.
    name: of the finished model.
  """
  check(ensemble, adapters)
  devices = mesh_lib.make_mesh(mesh)
  # 1. Labels to tokens.
  loaded = pretrained.load(init_from, "language", devices)
  _, start = pretrained.apart(loaded)
  labels = train_reward.read_labels(labels_file)
  test_labels = train_reward.read_labels(test_labels_file)
  encode = train_reward.encoder(start, hard=hard_labels)
  rows = datasets.TrainingRows(labels, encode)
  # 2. A phase trains what learns in it on its part of the labels.
  how = architectures.Execution(
    remat=remat, split_by=mesh_lib.activation_sharding(devices)
  )
  functions = architectures.scalar(start.config, how)
  phase = Phase(
    functions=functions,
    source=preference_batches.PairBatches(
      rows,
      devices,
      batch_size=batch_size,
      microbatches=microbatches,
      can_pack=functions.last_packed is not None,
    ),
    devices=devices,
    epochs=epochs,
    batch_size=batch_size,
    save_every=save_every,
    microbatches=microbatches,
    seed=seed,
  )
  # 3. Heads in one phase; adapters in two.
  params = init(functions, ensemble, loaded, devices, seed)
  del loaded
  everything = range(len(labels))
  if ensemble.kind == "heads":
    params = phase.fit(
      ensemble, params, everything, optimizer, output_dir, name
    )
  else:
    cut = round(len(labels) * ensemble.first_phase)
    if cut:
      directory, own_name = f"{output_dir}/trunk", f"{name}, trunk"
      params = phase.fit_trunk(
        ensemble, params, everything[:cut], optimizer, directory, own_name
      )
    params = phase.fit(
      ensemble, params, everything[cut:], adapters, output_dir, name
    )
  # 4. The finished model, and what it says of the held-out pairs.
  pretrained.save_like(
    f"{output_dir}/model",
    params,
    start,
    name=name,
    kind="ensemble",
    ensemble=ensemble,
  )
  test_pairs, _ = train_reward.encoder(start)(test_labels)
  rewards = predict(functions, ensemble, params, test_pairs, batch_size)
  return {
    "model": f"{output_dir}/model",
    "labels": len(labels),
    **rows.counts,
    **measured(output_dir, rewards, test_labels),
  }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phase:
  """What the phases of a training share."""

  functions: protocols.ScalarModel
  source: preference_batches.PairBatches
  devices: jax.sharding.Mesh
  epochs: float
  batch_size: int
  save_every: int
  microbatches: int
  seed: int

  def fit(
    self,
    ensemble: ensemble_lib.EnsembleConfig,
    params: Any,
    rows: range,
    optimizer: optimizer_lib.OptimizerConfig,
    directory: str,
    name: str,
  ) -> Any:
    """Parameters after training heads and trunk, or adapters and heads."""
    learned, frozen, combine = params, None, None
    if ensemble.kind == "lora":
      learned, frozen = params["members"], params["shared"]
      combine = lambda members, shared: {"shared": shared, "members": members}
    tx = optimizer_lib.make_optimizer(optimizer)
    update = step_lib.make_train_step(
      ensemble_lib.make_loss(self.functions, ensemble),
      tx,
      microbatches=self.microbatches,
      combine=combine,
    )

    def next_batch(state, number):
      del state
      pairs = self.source.at_step(number, rows, seed=self.seed, name=name)
      return ensemble_lib.MemberPairs(pairs=pairs, weights=None)

    steps = max(1, math.ceil(self.epochs * len(rows) / self.batch_size))
    learned = loop.fit(
      step_lib.state_from_params(learned, tx, self.devices),
      lambda state, batch, key: update(state, batch, key, frozen),
      next_batch,
      config=loop.LoopConfig(num_steps=steps, save_every=self.save_every),
      seed=self.seed,
      directory=directory,
      name=name,
    ).params
    return combine(learned, frozen) if combine else learned

  def fit_trunk(self, ensemble, params, *how) -> Any:
    """The same of a lora ensemble's trunk and heads, without its adapters."""
    members = dict(params["members"])
    adapters = members.pop("adapters")
    heads = dataclasses.replace(ensemble, kind="heads", diversity=0.0)
    params = self.fit(heads, {**params, "members": members}, *how)
    return {**params, "members": {**params["members"], "adapters": adapters}}


def check(
  ensemble: ensemble_lib.EnsembleConfig,
  adapters: optimizer_lib.OptimizerConfig | None,
) -> None:
  """Members share a trunk, and adapters have an optimizer.

  Raises:
    ValueError: not so.
  """
  if ensemble.kind == "independent":
    raise ValueError(
      "EnsembleConfig.kind is 'independent', and members here share a trunk; "
      "use 'heads' or 'lora', or run train_reward with several seeds and name "
      "its models in ScorerConfig.more_reward_dirs"
    )
  if ensemble.bootstrap:
    raise ValueError(
      "EnsembleConfig.bootstrap is True, and members here see the same labels; "
      "set it to False"
    )
  if (ensemble.kind == "lora") != (adapters is not None):
    raise ValueError(
      f"EnsembleConfig.kind is {ensemble.kind!r} and train_ensemble.adapters "
      f"is {adapters}; a lora ensemble needs that optimizer, and no other has "
      "a use for it"
    )


def init(
  functions: Any,
  ensemble: ensemble_lib.EnsembleConfig,
  start: pretrained.Loaded,
  devices: jax.sharding.Mesh,
  seed: int,
) -> Any:
  """The trunk of a language model and fresh members, laid out as to train."""
  shapes = pretrained.ensemble_shapes(functions, ensemble, devices)
  shardings = jax.tree.map(lambda x: x.sharding, shapes)
  trunk = pretrained.trunk_of(start, shardings["shared"]["decoder"])
  make = jax.jit(
    lambda key, trunk: ensemble_lib.init(functions, ensemble, key, trunk)[
      "members"
    ],
    out_shardings=shardings["members"],
  )
  return {
    "shared": {"decoder": trunk},
    "members": make(rng.key(seed, "init"), trunk),
  }


def predict(functions, ensemble, params, pairs, batch_size) -> np.ndarray:
  """[2, k, n]: each member's reward of both candidates of every pair."""

  @jax.jit
  def score(params, part):
    def read(whole):
      return reward_model.pair_rewards(functions, whole, part)

    return ensemble_lib.of_members(read, ensemble, params)

  return np.stack(train_reward.predict(score, params, pairs, batch_size))


def measured(output_dir, rewards, labels) -> dict[str, Any]:
  """Writes each pair's mean rewards with the members' deviation, and measures.

  `deviation` is that of the members' margins, in rewards as they are.
  """
  means = rewards.mean(axis=1)
  deviation = (rewards[0] - rewards[1]).std(axis=0)
  train_reward.write_test_rewards(
    output_dir, labels, means, deviation=deviation
  )
  own = [
    train_reward.accuracy(rewards[:, member], labels)["accuracy"]
    for member in range(rewards.shape[1])
  ]
  return {
    **train_reward.accuracy(means, labels),
    "member_accuracy": own,
    "deviation": float(deviation.mean()),
  }
