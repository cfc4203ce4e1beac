# SPDX-License-Identifier: Apache-2.0
"""Proxies of the rig: ensembles trained on its pairs, and what they cost."""

from __future__ import annotations

import dataclasses
import functools
import time
from typing import Any, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from rlaif_jax.core import batches
from rlaif_jax.core import rng
from rlaif_jax.data import converters
from rlaif_jax.engine import optimizer as optimizer_lib
from rlaif_jax.engine import scoring
from rlaif_jax.engine import step as step_lib
from rlaif_jax.experiments import toy_numbers
from rlaif_jax.experiments import seed_data
from rlaif_jax.reward import difference as difference_lib
from rlaif_jax.reward import ensemble as ensemble_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProxyConfig:
  """How proxies are trained; the same for all arms of a rig.

  `epochs` are over the pairs that a phase sees, so all kinds take the same
  number of updates. `adapters` optimizes the second phase of a lora ensemble.
  """

  optimizer: optimizer_lib.OptimizerConfig
  adapters: optimizer_lib.OptimizerConfig
  epochs: float = 10.0
  batch_size: int = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Proxy:
  """A trained ensemble with its members' units, and how it does.

  numbers: reliability, disagreement, parameters; functions of the seed.
  costs: seconds and bytes of this machine.
  """

  unit: ensemble_lib.Unit
  numbers: dict[str, float]
  costs: dict[str, float]


class Trainer:
  """Trains proxies; compiled programs are kept per ensemble config."""

  def __init__(self, programs: seed_data.Programs, config: ProxyConfig):
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
    """(optimizer, step): of everything, or of the members on a frozen trunk."""
    config = self._config.adapters if is_second else self._config.optimizer
    tx = optimizer_lib.make_optimizer(config)
    combine = None
    if is_second:
      combine = lambda members, shared: {"shared": shared, "members": members}
    loss = ensemble_lib.make_loss(self.programs.scalar, ensemble)
    return tx, step_lib.make_train_step(loss, tx, combine=combine)

  def _make_rewards(self, ensemble: ensemble_lib.EnsembleConfig):
    """The jitted (params, TokenBatch) -> member rewards [k, B]."""
    return jax.jit(
      lambda params, batch: ensemble_lib.member_rewards(
        self.programs.scalar, ensemble, params, batch
      )
    )

  def train(
    self,
    setting: seed_data.Setting,
    ensemble: ensemble_lib.EnsembleConfig,
    pairs: batches.PairBatch | None = None,
    *,
    in_turn: Sequence[range] | None = None,
  ) -> Proxy:
    """Trains on the setting's pairs, or on others of the same world.

    With `in_turn`, on parts of them, one after the other, each with a fresh
    optimizer and for as many epochs as all pairs together would have.

    Raises:
      ValueError: parts for a lora ensemble, which has phases of its own.
    """
    pairs = setting.train if pairs is None else pairs
    rows = len(pairs.label)
    key = rng.key(setting.seed, "proxy")
    if ensemble.kind != "lora":
      params = ensemble_lib.init(self.programs.scalar, ensemble, key)
      for part in in_turn or [range(rows)]:
        params, seconds = self._fit(setting, ensemble, params, pairs, part)
    elif in_turn:
      raise ValueError(
        "a lora ensemble has two phases of its own; train it on labels that "
        "are mixed, or take another kind for labels in turn"
      )
    else:
      params, seconds = self._two_phases(setting, ensemble, key, pairs)
    return self._measured(setting, ensemble, params, pairs, seconds)

  def _make_difference_update(self):
    tx = optimizer_lib.make_optimizer(self._config.optimizer)
    loss = difference_lib.make_loss(self.programs.scalar)
    return tx, step_lib.make_train_step(loss, tx)

  def train_difference(self, setting: seed_data.Setting) -> Any:
    """Parameters of a difference model, with as many updates as a proxy."""
    tx, update = self._difference_update()
    state = step_lib.init_state(
      self.programs.scalar.init,
      tx,
      rng.key(setting.seed, "difference"),
      self.programs.devices,
    )
    rows, size = len(setting.train.label), self._config.batch_size
    for step in range(max(1, round(self._config.epochs * rows / size))):
      index = converters.epoch_rows(
        num_rows=rows,
        batch_size=size,
        seed=setting.seed,
        name="difference",
        step=step,
      )
      batch = converters.take(setting.train, index)
      state, _ = update(state, batch, rng.key(setting.seed, "difference", step))
    return state.params

  def _two_phases(self, setting, ensemble, key, pairs):
    """Trunk and heads on a first share, then adapters and heads on the rest.

    Without a first phase the adapters stand on a trunk that learned nothing.
    """
    rows = len(pairs.label)
    cut = int(rows * ensemble.first_phase)
    heads = dataclasses.replace(ensemble, kind="heads", diversity=0.0)
    first = ensemble_lib.init(self.programs.scalar, heads, key)
    if cut:
      first, _ = self._fit(setting, heads, first, pairs, range(cut))
    trunk = first["shared"]["decoder"]
    start = ensemble_lib.init(self.programs.scalar, ensemble, key, trunk)
    members = {**start["members"], "head": first["members"]["head"]}
    start = {**start, "members": members}
    return self._fit(setting, ensemble, start, pairs, range(cut, rows))

  def _fit(self, setting, ensemble, params, pairs, rows):
    """Parameters, and seconds an update once the program is compiled."""
    is_second = ensemble.kind == "lora"
    tx, update = self._update(ensemble, is_second)
    params = seed_data.on_mesh(params, self.programs)
    shared = params["shared"]
    learned = params["members"] if is_second else params
    state = step_lib.state_from_params(learned, tx, self.programs.devices)
    generator = rng.numpy_generator(setting.seed, "bootstrap")
    weights = ensemble_lib.bootstrap_weights(ensemble, generator, len(rows))
    size = self._config.batch_size
    steps = max(1, round(self._config.epochs * len(rows) / size))
    begin = 0.0
    for step in range(steps):
      if step == 2:
        jax.block_until_ready(state)
        begin = time.monotonic()
      index = converters.epoch_rows(
        num_rows=len(rows),
        batch_size=size,
        seed=setting.seed,
        name=f"proxy/{ensemble.kind}",
        step=step,
      )
      batch = ensemble_lib.MemberPairs(
        pairs=converters.take(pairs, index + rows[0]),
        weights=weights[index],
      )
      key = rng.key(setting.seed, "proxy/update", step)
      if is_second:
        state, _ = update(state, batch, key, shared)
      else:
        state, _ = update(state, batch, key)
    jax.block_until_ready(state)
    seconds = (time.monotonic() - begin) / (steps - 2) if steps > 2 else 0.0
    if is_second:
      return {"shared": shared, "members": state.params}, seconds
    return state.params, seconds

  def _measured(self, setting, ensemble, params, pairs, seconds) -> Proxy:
    score = self.rewards(ensemble)
    prompts, drawn = setting.reference
    joined = scoring.join(prompts, drawn.response, drawn.mask)
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
    margins = pair_margins(score, params, setting.test)
    numbers = {
      **toy_numbers.reliability(margins, setting.test_gaps),
      "train_accuracy": toy_numbers.accuracy(
        pair_margins(score, params, pairs).mean(axis=0), pairs.label
      ),
      "disagreement": toy_numbers.disagreement(reference),
      "parameters": sum(sizes),
      "learned": sum(leaf.size for leaf in learned),
    }
    if ensemble.members > 1:
      far = score(params, any_words(setting))
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
def make_trainer(rig: seed_data.RigConfig, config: ProxyConfig) -> Trainer:
  """The programs of a rig's proxies; those of the latest configs are kept."""
  return Trainer(seed_data.make_programs(rig), config)


def any_words(setting: seed_data.Setting) -> batches.TokenBatch:
  """As many texts as set the units, of all words alike: what no data hold."""
  prompts, _ = setting.reference
  generator = rng.numpy_generator(setting.seed, "any words")
  response, mask = setting.world.even().write(prompts.prompt, generator)
  return scoring.join(prompts, response, mask)


def pair_margins(score: Any, params: Any, pairs: Any) -> np.ndarray:
  """Each member's reward of the first minus that of the second: [k, B]."""
  return np.asarray(score(params, pairs.first) - score(params, pairs.second))
