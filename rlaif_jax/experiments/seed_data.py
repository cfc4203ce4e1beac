# SPDX-License-Identifier: Apache-2.0
"""World, first policy and labelled pairs of a seed, shared by all arms.

All data is a function of the seed, so arms are compared on the same worlds,
samples and labels.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Annotated

import jax
import numpy as np
from jaxtyping import PyTree

from rlaif_jax.core import batches
from rlaif_jax.core import masked
from rlaif_jax.core import rng
from rlaif_jax.core import validation
from rlaif_jax.data import converters
from rlaif_jax.engine import decode
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.engine import optimizer as optimizer_lib
from rlaif_jax.engine import scoring
from rlaif_jax.engine import step as step_lib
from rlaif_jax.experiments import toy_task
from rlaif_jax.experiments import toy_training
from rlaif_jax.models import architectures
from rlaif_jax.models import decoder


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToyConfig(validation.Validated):
  """World, models and data of an experiment.

  Attributes:
    world: sizes and true reward.
    policy: sizes of the policy.
    proxy: sizes of the reward models.
    sft: optimizer of the first policy.
    sft_steps: its updates.
    pairs: training pairs, labelled by gold with noise.
    test_pairs: pairs with labels free of noise.
    flip: probability that a training label is flipped.
    temperature: 0 uses `flip`; a positive number samples labels with P =
      sigmoid(margin / temperature), margins in standard deviations of gold
      over the first policy's samples.
    reference: samples of the first policy that set the units of gold and
      proxies.
    batch_size: of SFT; sampling uses 4 times as many rows.
  """

  world: toy_task.ToyWorldConfig
  policy: decoder.DecoderConfig
  proxy: decoder.DecoderConfig
  sft: optimizer_lib.OptimizerConfig
  sft_steps: validation.PositiveInt = 300
  pairs: validation.PositiveInt = 256
  test_pairs: validation.PositiveInt = 1024
  flip: Annotated[float, validation.Bounds(ge=0, le=0.5)] = 0.25
  temperature: validation.NonNegativeFloat = 0.0
  reference: validation.PositiveInt = 2048
  batch_size: validation.PositiveInt = 128

  def __post_init__(self):
    super().__post_init__()
    for name in ("policy", "proxy"):
      model = getattr(self, name)
      need = self.world.max_words + 2
      if model.vocab_size != self.world.vocab_size or model.max_length < need:
        raise ValueError(
          f"ToyConfig.{name}: vocab_size is {model.vocab_size} and max_length "
          f"{model.max_length}; they must be "
          f"{self.world.vocab_size} and >= {need} in this world"
        )
    if self.temperature and self.flip:
      raise ValueError(
        f"ToyConfig: temperature is {self.temperature} and flip {self.flip}; "
        "one of them must be 0: each makes the label noise"
      )


class Programs:
  """Models and compiled functions, made once for all seeds and arms."""

  def __init__(self, config: ToyConfig):
    self.config = config
    self.devices = mesh_lib.make_mesh("data:1", jax.devices()[:1])
    self.policy = architectures.language(config.policy)
    self.scalar = architectures.scalar(config.proxy)
    self.value = architectures.scalar(config.policy)
    self.sft_optimizer = optimizer_lib.make_optimizer(config.sft)
    self.sampler = functools.cache(self._sampler)
    self.update_sft = step_lib.make_train_step(
      self.sft_loss, self.sft_optimizer
    )

  def sft_loss(self, params, batch, key):
    """Negative log-likelihood of the responses of a TokenBatch."""
    del key  # The loss draws nothing.
    log_probs = scoring.response_log_probs(self.policy, params, batch)
    return masked.weighted_sum(-log_probs, batch.weights), {}

  def sampling(self, temperature: float = 1.0) -> decode.SamplingConfig:
    """Returns a sampling config for the longest response and its end token."""
    return decode.SamplingConfig(
      max_tokens=self.config.world.max_words + 1, temperature=temperature
    )

  def _sampler(self, temperature: float):
    """Returns the jitted (params, prompts, key) -> samples."""
    sampling = self.sampling(temperature)

    @jax.jit
    def sample(params, prompts, key):
      return decode.generate(
        self.policy,
        params,
        prompts.prompt,
        prompts.prompt_valid,
        decode.row_keys(key, prompts.row),
        config=sampling,
        eos_ids=(toy_task.END,),
      )

    return sample

  def draw(self, params, prompts, key, temperature: float = 1.0):
    """Samples any number of prompts, in blocks of one shape."""
    rows, block = len(prompts.row), 4 * self.config.batch_size
    parts = []
    for index in blocks(rows, block):
      part = converters.take(prompts, index)
      parts.append(self.sampler(temperature)(params, part, key))
    return jax.tree.map(lambda *x: np.concatenate(x)[:rows], *parts)

  @functools.cached_property
  def pair_log_probs(self):
    """The jitted (params, pairs) -> log-probs [B] of both candidates."""
    return jax.jit(functools.partial(scoring.pair_log_probs, self.policy))

  @functools.cached_property
  def _response_log_probs(self):
    return jax.jit(
      lambda params, batch: scoring.response_log_probs(
        self.policy, params, batch
      )
    )

  def log_probs(self, params, prompts, samples) -> np.ndarray:
    """Returns log-probs [B, R] of samples under `params`, at temperature 1."""
    joined = scoring.join(prompts, samples.response, samples.mask)
    return np.asarray(self._response_log_probs(params, joined))


@functools.lru_cache(maxsize=4)
def make_programs(config: ToyConfig) -> Programs:
  """Returns the programs of a config; the latest four are cached."""
  return Programs(config)


def blocks(rows: int, size: int) -> list[np.ndarray]:
  """Returns row indices in blocks of one size; the last wraps around."""
  return [
    np.arange(begin, begin + size) % rows for begin in range(0, rows, size)
  ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeedData:
  """World, first policy and pairs of one seed.

  Attributes:
    seed: of all data.
    world: word frequencies and values.
    policy: parameters of the first policy, which is also the reference.
    shift: mean of gold over the first policy's samples.
    scale: standard deviation of gold over the first policy's samples.
    train: pairs of its samples with noisy labels.
    test: pairs of its samples with labels free of noise.
    train_margins: gold of first minus second, [pairs].
    test_margins: the same for `test`.
    reference: prompts and samples that set the units.
  """

  seed: int
  world: toy_task.World
  policy: PyTree
  shift: float
  scale: float
  train: batches.PairBatch
  test: batches.PairBatch
  train_margins: np.ndarray
  test_margins: np.ndarray
  reference: tuple[batches.PromptBatch, decode.SampledResponses]

  def rescored(self, world: toy_task.World) -> "SeedData":
    """Returns the data with the values of another world as gold.

    The units are those of the same samples.
    """
    prompts, samples = self.reference
    raw = world.gold(prompts.prompt, samples.response, samples.mask)
    return dataclasses.replace(
      self, world=world, shift=float(raw.mean()), scale=float(raw.std())
    )

  def gold(
    self, prompts: batches.PromptBatch, samples: decode.SampledResponses
  ) -> np.ndarray:
    """Returns gold [B] in units of the first policy: mean 0, deviation 1.

    Args:
      prompts: of the rows.
      samples: with `response` and `mask` [B, R].
    """
    response, mask = (
      np.asarray(x)[:, None] for x in (samples.response, samples.mask)
    )
    return self.score(np.asarray(prompts.prompt), response, mask)[:, 0]

  def score(
    self, prompt: np.ndarray, response: np.ndarray, mask: np.ndarray
  ) -> np.ndarray:
    """Returns gold [B, N] of responses [B, N, R] to prompts [B, 1]."""
    groups = response.shape[:2]
    rows = np.repeat(prompt, groups[1], axis=0)
    response, mask = (x.reshape(len(rows), -1) for x in (response, mask))
    raw = self.world.gold(rows, response, mask).reshape(groups)
    return ((raw - self.shift) / self.scale).astype(np.float32)

  def wins(self, prompts: batches.PromptBatch, gold: np.ndarray) -> np.ndarray:
    """Returns win rates [B] against the first policy's samples, by gold.

    Each response is compared with all samples of the same topic; ties count
    half.
    """
    reference, samples = self.reference
    reference_gold = self.gold(reference, samples)
    result = np.empty(len(gold))
    for prompt in np.unique(prompts.prompt[:, 0]):
      rows = prompts.prompt[:, 0] == prompt
      sort = np.sort(reference_gold[reference.prompt[:, 0] == prompt])
      below = np.searchsorted(sort, gold[rows], side="left")
      up_to = np.searchsorted(sort, gold[rows], side="right")
      result[rows] = (below + up_to) / (2 * len(sort))
    return result


def prompt_rows(world: toy_task.World, rows: np.ndarray):
  """Returns the PromptBatch of row numbers."""
  tokens = world.prompts(rows)
  valid = np.ones_like(tokens, bool)
  return batches.PromptBatch(
    prompt=tokens,
    prompt_valid=valid,
    context=tokens,
    context_valid=valid,
    row=rows.astype(np.int32),
  )


def make_seed_data(programs: Programs, seed: int) -> SeedData:
  """Draws a world, trains the first policy, samples and labels pairs."""
  config = programs.config
  world = toy_task.make_world(config.world, seed)
  policy = train_first_policy(programs, world, seed)
  # The units of gold.
  prompts = prompt_rows(world, np.arange(config.reference))
  samples = programs.draw(policy, prompts, rng.key(seed, "reference"))
  data = SeedData(
    seed=seed,
    world=world,
    policy=policy,
    shift=0.0,
    scale=1.0,
    train=None,
    test=None,
    train_margins=None,
    test_margins=None,
    reference=(prompts, samples),
  ).rescored(world)
  train, margins = sample_pairs(programs, data, config.pairs, "train")
  test, test_margins = sample_pairs(programs, data, config.test_pairs, "test")
  return dataclasses.replace(
    data,
    train=train.replace(label=noisy_labels(config, margins, seed)),
    train_margins=margins,
    test_margins=test_margins,
    test=test.replace(label=(test_margins > 0).astype(np.float32)),
  )


def train_first_policy(
  programs: Programs, world: toy_task.World, seed: int
) -> PyTree:
  """Trains a policy on texts of the world's writers."""
  config = programs.config
  state = step_lib.init_state(
    programs.policy.init,
    programs.sft_optimizer,
    rng.key(seed, "policy"),
    programs.devices,
  )
  prompts = prompt_rows(world, np.arange(config.batch_size))

  def next_batch(state, step):
    del state
    generator = rng.numpy_generator(seed, "writers", step)
    response, mask = world.write(prompts.prompt, generator)
    batch = scoring.join(prompts, response, mask)
    return toy_training.on_mesh(batch, programs.devices)

  return toy_training.fit(
    state,
    programs.update_sft,
    next_batch,
    num_steps=config.sft_steps,
    seed=seed,
    name="sft",
  ).params


def sample_pairs(
  programs: Programs, data: SeedData, pairs: int, name: str
) -> tuple[batches.PairBatch, np.ndarray]:
  """Samples unlabelled pairs of the first policy; returns their gold margins.

  Pairs with equal gold stay; their margin is 0.
  """
  key = rng.key(data.seed, f"pairs/{name}")
  return draw_pairs(programs, data, np.arange(pairs), key)


def draw_pairs(
  programs: Programs, data: SeedData, rows: np.ndarray, key: jax.Array
) -> tuple[batches.PairBatch, np.ndarray]:
  """Samples pairs for prompts by row number; see `sample_pairs`."""
  pairs = len(rows)
  prompts = prompt_rows(data.world, np.repeat(rows, 2))
  prompts = prompts.replace(row=np.arange(2 * pairs, dtype=np.int32))
  samples = programs.draw(data.policy, prompts, key)
  gold = data.gold(prompts, samples)
  response, valid = (
    np.asarray(x).reshape(pairs, 2, -1)
    for x in (samples.response, samples.mask > 0)
  )
  batch = batches.PairBatch(
    texts=batches.GroupBatch(
      prompt=prompts.prompt[::2],
      prompt_valid=prompts.prompt_valid[::2],
      response=response,
      response_valid=valid,
    ),
    label=np.zeros(pairs, np.float32),
    weight=np.ones(pairs, np.float32),
  )
  return batch, gold[0::2] - gold[1::2]


def noisy_labels(
  config: ToyConfig, margins: np.ndarray, seed: int, name: str = "labels"
) -> np.ndarray:
  """Returns hard labels [B] by gold with noise; see `ToyConfig`."""
  generator = rng.numpy_generator(seed, name)
  if not config.temperature:
    return flipped_labels(margins, config.flip, generator)
  chance = generator.random(len(margins))
  prefers = chance < 1.0 / (1.0 + np.exp(-margins / config.temperature))
  return prefers.astype(np.float32)


def flipped_labels(
  margins: np.ndarray, flip: float, generator: np.random.Generator
) -> np.ndarray:
  """Returns hard labels [B] of margins, flipped with probability `flip`."""
  chance = generator.random(len(margins))
  return ((margins > 0) != (chance < flip)).astype(np.float32)
