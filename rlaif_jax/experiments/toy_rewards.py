# SPDX-License-Identifier: Apache-2.0
"""Trains proxies (reward model ensembles) on pairs, and measures them."""

from __future__ import annotations

import dataclasses
import functools
import time
from typing import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from rlaif_jax.core import batches
from rlaif_jax.core import rng
from rlaif_jax.data import converters
from rlaif_jax.engine import optimizer as optimizer_lib
from rlaif_jax.engine import scoring
from rlaif_jax.engine import step as step_lib
from rlaif_jax.experiments import toy_numbers
from rlaif_jax.experiments import toy_training
from rlaif_jax.experiments import seed_data
from rlaif_jax.reward import difference as difference_lib
from rlaif_jax.reward import ensemble as ensemble_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToyProxyConfig:
  """Training of proxies, the same for all arms.

  Attributes:
    optimizer: of all kinds of ensemble.
    adapters: optimizer of the second phase of a LoRA ensemble.
    epochs: over the pairs of a phase, so all kinds take the same number of
      updates.
    batch_size: pairs of an update.
  """

  optimizer: optimizer_lib.OptimizerConfig
  adapters: optimizer_lib.OptimizerConfig
  epochs: float = 10.0
  batch_size: int = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Proxy:
  """A trained ensemble.

  Attributes:
    unit: parameters, and the unit of each member's reward.
    numbers: accuracy, calibration, disagreement and sizes; reproducible.
    costs: seconds and bytes on this machine.
  """

  unit: ensemble_lib.Unit
  numbers: dict[str, float]
  costs: dict[str, float]


class ProxyTrainer:
  """Trains proxies; compiled programs are cached per ensemble config."""

  def __init__(self, programs: seed_data.Programs, config: ToyProxyConfig):
    self.programs = programs
    self._config = config
    self._update = functools.cache(self._make_update)
    self.rewards = functools.cache(self._make_rewards)
    self._difference_update = functools.cache(self._make_difference_update)
    self.difference = jax.jit(
      functools.partial(difference_lib.difference, programs.scalar)
    )

  def _make_update(
    self, ensemble: ensemble_lib.EnsembleConfig, is_second: bool
  ):
    """Returns (optimizer, step); a second step trains members only."""
    config = self._config.adapters if is_second else self._config.optimizer
    tx = optimizer_lib.make_optimizer(config)
    combine = None
    if is_second:
      combine = lambda members, shared: {"shared": shared, "members": members}
    loss = ensemble_lib.make_loss(self.programs.scalar, ensemble)
    return tx, step_lib.make_train_step(loss, tx, combine=combine)

  def _make_rewards(self, ensemble: ensemble_lib.EnsembleConfig):
    """Returns the jitted (params, TokenBatch) -> member rewards [k, B]."""
    return jax.jit(
      lambda params, batch: ensemble_lib.member_rewards(
        self.programs.scalar, ensemble, params, batch
      )
    )

  def train(
    self,
    data: seed_data.SeedData,
    ensemble: ensemble_lib.EnsembleConfig,
    pairs: batches.PairBatch | None = None,
    *,
    sequential: Sequence[range] | None = None,
  ) -> Proxy:
    """Trains an ensemble.

    Args:
      data: the seed's world and pairs.
      ensemble: members and what they share.
      pairs: pairs of the same world in place of `data.train`.
      sequential: rows of parts that are trained on one after the other, each
        with a fresh optimizer and the configured number of epochs.

    Raises:
      ValueError: `sequential` with a LoRA ensemble, which has its own phases.
    """
    pairs = data.train if pairs is None else pairs
    rows = len(pairs.label)
    key = rng.key(data.seed, "proxy")
    if ensemble.kind != "lora":
      params = ensemble_lib.init(self.programs.scalar, ensemble, key)
      for part in sequential or [range(rows)]:
        params, seconds = self._fit(data, ensemble, params, pairs, part)
    elif sequential:
      raise ValueError(
        "sequential is set for a LoRA ensemble, which trains in two phases of "
        'its own; use order="mixed", or kind "independent" or "heads"'
      )
    else:
      params, seconds = self._two_phases(data, ensemble, key, pairs)
    return self._measured(data, ensemble, params, pairs, seconds)

  def _make_difference_update(self):
    tx = optimizer_lib.make_optimizer(self._config.optimizer)
    loss = difference_lib.make_loss(self.programs.scalar)
    return tx, step_lib.make_train_step(loss, tx)

  def train_difference(self, data: seed_data.SeedData) -> PyTree:
    """Trains a difference model with as many updates as a proxy."""
    tx, update = self._difference_update()
    state = step_lib.init_state(
      self.programs.scalar.init,
      tx,
      rng.key(data.seed, "difference"),
      self.programs.devices,
    )
    next_batch = self._epochs(data.train, data.seed, "difference")
    return toy_training.fit(
      state,
      update,
      next_batch,
      num_steps=self._num_steps(len(data.train.label)),
      seed=data.seed,
      name="difference",
    ).params

  def _num_steps(self, rows: int) -> int:
    return max(1, round(self._config.epochs * rows / self._config.batch_size))

  def _epochs(self, rows, seed: int, name: str):
    return toy_training.epoch_batches(
      rows,
      self.programs.devices,
      batch_size=self._config.batch_size,
      seed=seed,
      name=name,
    )

  def _two_phases(self, data, ensemble, key, pairs):
    """Trains trunk and heads on a first part, then adapters and heads.

    Without a first phase the trunk of the adapters stays untrained.
    """
    rows = len(pairs.label)
    cut = int(rows * ensemble.first_phase)
    heads = dataclasses.replace(ensemble, kind="heads", diversity=0.0)
    first = ensemble_lib.init(self.programs.scalar, heads, key)
    if cut:
      first, _ = self._fit(data, heads, first, pairs, range(cut))
    trunk = first["shared"]["decoder"]
    start = ensemble_lib.init(self.programs.scalar, ensemble, key, trunk)
    members = {**start["members"], "head": first["members"]["head"]}
    start = {**start, "members": members}
    return self._fit(data, ensemble, start, pairs, range(cut, rows))

  def _fit(self, data, ensemble, params, pairs, rows):
    """Returns parameters, and seconds per update after compilation."""
    is_second = ensemble.kind == "lora"
    tx, update = self._update(ensemble, is_second)
    params = toy_training.on_mesh(params, self.programs.devices)
    shared = params["shared"]
    learned = params["members"] if is_second else params
    generator = rng.numpy_generator(data.seed, "bootstrap")
    members = ensemble_lib.MemberPairs(
      pairs=converters.take(pairs, np.asarray(rows)),
      weights=ensemble_lib.bootstrap_weights(ensemble, generator, len(rows)),
    )
    epochs = self._epochs(members, data.seed, f"proxy/{ensemble.kind}")
    begin = 0.0

    def next_batch(state, step):
      nonlocal begin
      if step == 2:
        jax.block_until_ready(state)
        begin = time.monotonic()
      return epochs(state, step)

    if is_second:
      update = functools.partial(update, frozen=shared)
    steps = self._num_steps(len(rows))
    state = toy_training.fit(
      step_lib.state_from_params(learned, tx, self.programs.devices),
      update,
      next_batch,
      num_steps=steps,
      seed=data.seed,
      name="proxy",
    )
    jax.block_until_ready(state)
    seconds = (time.monotonic() - begin) / (steps - 2) if steps > 2 else 0.0
    if is_second:
      return {"shared": shared, "members": state.params}, seconds
    return state.params, seconds

  def _measured(self, data, ensemble, params, pairs, seconds) -> Proxy:
    score = self.rewards(ensemble)
    prompts, samples = data.reference
    joined = scoring.join(prompts, samples.response, samples.mask)
    reference = np.asarray(score(params, joined))
    begin = time.monotonic()
    jax.block_until_ready(score(params, joined))
    score_seconds = time.monotonic() - begin
    unit = ensemble_lib.Unit(
      params=params,
      shift=jnp.asarray(reference.mean(axis=1)),
      scale=jnp.asarray(np.maximum(reference.std(axis=1), 1e-6)),
    )
    learned = jax.tree.leaves(params["members"])
    if ensemble.kind != "lora" or ensemble.first_phase:
      learned = jax.tree.leaves(params)
    sizes = [leaf.size for leaf in jax.tree.leaves(params)]
    margins = pair_margins(score, params, data.test)
    numbers = {
      **toy_numbers.reliability(margins, data.test_margins),
      "train_accuracy": toy_numbers.accuracy(
        pair_margins(score, params, pairs).mean(axis=0), pairs.label
      ),
      "disagreement": toy_numbers.disagreement(reference),
      "parameters": sum(sizes),
      "learned": sum(leaf.size for leaf in learned),
    }
    if ensemble.members > 1:
      far = score(params, any_words(data))
      numbers["correlation"] = toy_numbers.correlation(reference)
      numbers["far_correlation"] = toy_numbers.correlation(np.asarray(far))
    if "adapters" in params["members"]:
      ratio = ensemble_lib.diversity_ratio(params["members"]["adapters"])
      numbers["diversity"] = float(ratio)
    costs = {
      "update_seconds": seconds,
      "score_seconds": score_seconds,
      "bytes": 4 * sum(sizes),
      "scored": len(prompts.row),
    }
    return Proxy(unit=unit, numbers=numbers, costs=costs)


@functools.lru_cache(maxsize=4)
def make_trainer(
  toy: seed_data.ToyConfig, config: ToyProxyConfig
) -> ProxyTrainer:
  """Returns the programs of proxies; the latest four are cached."""
  return ProxyTrainer(seed_data.make_programs(toy), config)


def any_words(data: seed_data.SeedData) -> batches.TokenBatch:
  """Returns texts of uniformly random words, outside of all data."""
  prompts, _ = data.reference
  generator = rng.numpy_generator(data.seed, "any words")
  response, mask = data.world.uniform().write(prompts.prompt, generator)
  return scoring.join(prompts, response, mask)


def pair_margins(
  score: Callable[[PyTree, batches.TokenBatch], jax.Array],
  params: PyTree,
  pairs: batches.PairBatch,
) -> np.ndarray:
  """Returns each member's reward of the first minus the second: [k, B]."""
  return np.asarray(score(params, pairs.first) - score(params, pairs.second))
