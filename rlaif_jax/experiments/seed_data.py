# SPDX-License-Identifier: Apache-2.0
"""What the arms of a rig share: world, policy of the start, labelled pairs.

All of it is a function of the seed, so arms are compared on the same worlds,
samples and labels.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Annotated, Any

import jax
import numpy as np

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
from rlaif_jax.models import architectures
from rlaif_jax.models import decoder


@dataclasses.dataclass(frozen=True, kw_only=True)
class RigConfig(validation.Validated):
  """The world, the models and the data, before any method.

  `pairs` are labelled by gold with noise: the label is turned with chance
  `flip`, or, with `temperature` > 0, drawn with P = sigmoid(gap / temperature)
  (gaps in standard deviations of gold over the first policy's samples).
  `reference` responses of the first policy set the units of gold and proxies.
  """

  world: toy_task.WorldConfig
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
          f"RigConfig.{name}: vocab_size is {model.vocab_size} and max_length "
          f"{model.max_length}; this world needs {self.world.vocab_size} and "
          f"at least {need}"
        )
    if self.temperature and self.flip:
      raise ValueError(
        f"RigConfig: temperature is {self.temperature} and flip {self.flip}; "
        "one of them makes the noise, the other must be 0"
      )


class Programs:
  """Compiled functions of a rig, made once for all seeds and arms."""

  def __init__(self, config: RigConfig):
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
    """Imitation of a TokenBatch's responses."""
    del key  # Nothing is drawn.
    log_probs = scoring.response_log_probs(self.policy, params, batch)
    return masked.weighted_sum(-log_probs, batch.weights), {}

  def sampling(self, temperature: float = 1.0) -> decode.SamplingConfig:
    """All words and the end token fit."""
    return decode.SamplingConfig(
      max_tokens=self.config.world.max_words + 1, temperature=temperature
    )

  def _sampler(self, temperature: float):
    """The jitted (params, prompts, key) -> decode.Samples."""
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
    """Samples of any number of prompts, in blocks of one shape."""
    rows, block = len(prompts.row), 4 * self.config.batch_size
    parts = []
    for index in blocks(rows, block):
      part = converters.take(prompts, index)
      parts.append(self.sampler(temperature)(params, part, key))
    return jax.tree.map(lambda *x: np.concatenate(x)[:rows], *parts)

  @functools.cached_property
  def pair_log_probs(self):
    """The jitted (params, pairs) -> log-probs of both whole candidates."""
    return jax.jit(functools.partial(scoring.pair_log_probs, self.policy))

  @functools.cached_property
  def _response_log_probs(self):
    return jax.jit(
      lambda params, batch: scoring.response_log_probs(
        self.policy, params, batch
      )
    )

  def log_probs(self, params, prompts, drawn) -> np.ndarray:
    """[B, R] of samples under other parameters, at temperature 1."""
    joined = scoring.join(prompts, drawn.response, drawn.mask)
    return np.asarray(self._response_log_probs(params, joined))


@functools.lru_cache(maxsize=4)
def make_programs(config: RigConfig) -> Programs:
  """The programs of a rig; those of the latest configs are kept."""
  return Programs(config)


def blocks(rows: int, size: int) -> list[np.ndarray]:
  """Row numbers in blocks of one size; the last is filled from the front."""
  return [
    np.arange(begin, begin + size) % rows for begin in range(0, rows, size)
  ]


def on_mesh(tree: Any, programs: Programs) -> Any:
  """Whole on the device, laid out as a training state wants it."""
  return jax.device_put(tree, mesh_lib.replicated(programs.devices))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
  """One seed's world.

  policy: parameters of the first policy, which is also the reference.
  shift, scale: of gold over the first policy's samples.
  train, test: pairs of its samples; test labels are free of noise.
  train_gaps, test_gaps: gold of first minus second, [pairs].
  reference: prompts and samples that set units.
  """

  seed: int
  world: toy_task.World
  policy: Any
  shift: float
  scale: float
  train: batches.PairBatch
  test: batches.PairBatch
  train_gaps: np.ndarray
  test_gaps: np.ndarray
  reference: tuple[batches.PromptBatch, decode.Samples]

  def judged_by(self, world: toy_task.World) -> "Setting":
    """With another world's values, in units of the same first samples."""
    prompts, drawn = self.reference
    raw = world.gold(prompts.prompt, drawn.response, drawn.mask)
    return dataclasses.replace(
      self, world=world, shift=float(raw.mean()), scale=float(raw.std())
    )

  def gold(self, prompts: batches.PromptBatch, drawn: Any) -> np.ndarray:
    """[B]: 0 is the first policy's mean, 1 its standard deviation.

    Args:
      prompts: of the rows.
      drawn: anything with `response` and `mask` [B, R].
    """
    return self.score(np.asarray(prompts.prompt), drawn.response, drawn.mask)

  def score(self, prompt: np.ndarray, response: Any, mask: Any) -> np.ndarray:
    """Gold [B G] of responses that stand together by prompt [B, 1]."""
    prompt = np.repeat(prompt, len(response) // len(prompt), axis=0)
    raw = self.world.gold(prompt, np.asarray(response), np.asarray(mask))
    return ((raw - self.shift) / self.scale).astype(np.float32)

  def wins(self, prompts: batches.PromptBatch, gold: np.ndarray) -> np.ndarray:
    """[B]: the share of the first policy's samples to the same prompt that
    have less gold than a response; ties count half."""
    reference, drawn = self.reference
    theirs = self.gold(reference, drawn)
    result = np.empty(len(gold))
    for prompt in np.unique(prompts.prompt[:, 0]):
      ours = prompts.prompt[:, 0] == prompt
      sort = np.sort(theirs[reference.prompt[:, 0] == prompt])
      below = np.searchsorted(sort, gold[ours], side="left")
      up_to = np.searchsorted(sort, gold[ours], side="right")
      result[ours] = (below + up_to) / (2 * len(sort))
    return result


def prompt_rows(world: toy_task.World, rows: np.ndarray):
  """PromptBatch of rows by number."""
  tokens = world.prompts(rows)
  valid = np.ones_like(tokens, bool)
  return batches.PromptBatch(
    prompt=tokens,
    prompt_valid=valid,
    context=tokens,
    context_valid=valid,
    row=rows.astype(np.int32),
  )


def make_setting(programs: Programs, seed: int) -> Setting:
  """Draws a world, trains the first policy, samples and labels pairs."""
  config = programs.config
  world = toy_task.make_world(config.world, seed)
  policy = train_first_policy(programs, world, seed)
  # The units of gold.
  prompts = prompt_rows(world, np.arange(config.reference))
  drawn = programs.draw(policy, prompts, rng.key(seed, "reference"))
  setting = Setting(
    seed=seed,
    world=world,
    policy=policy,
    shift=0.0,
    scale=1.0,
    train=None,
    test=None,
    train_gaps=None,
    test_gaps=None,
    reference=(prompts, drawn),
  ).judged_by(world)
  train, gaps = sample_pairs(programs, setting, config.pairs, "train")
  test, test_gaps = sample_pairs(programs, setting, config.test_pairs, "test")
  return dataclasses.replace(
    setting,
    train=train.replace(label=noisy_labels(config, gaps, seed)),
    train_gaps=gaps,
    test_gaps=test_gaps,
    test=test.replace(label=(test_gaps > 0).astype(np.float32)),
  )


def train_first_policy(
  programs: Programs, world: toy_task.World, seed: int
) -> Any:
  """Imitates the world's writers."""
  config = programs.config
  state = step_lib.init_state(
    programs.policy.init,
    programs.sft_optimizer,
    rng.key(seed, "policy"),
    programs.devices,
  )
  rows = np.arange(config.batch_size)
  prompts = prompt_rows(world, rows)
  for step in range(config.sft_steps):
    generator = rng.numpy_generator(seed, "writers", step)
    response, mask = world.write(prompts.prompt, generator)
    batch = scoring.join(prompts, response, mask)
    state, _ = programs.update_sft(state, batch, rng.key(seed, "sft", step))
  return state.params


def sample_pairs(
  programs: Programs, setting: Setting, pairs: int, name: str
) -> tuple[batches.PairBatch, np.ndarray]:
  """Pairs of two samples of the first policy, without labels, and gold gaps.

  A pair of equal gold is drawn as often as it comes; its gap is 0.
  """
  key = rng.key(setting.seed, f"pairs/{name}")
  return draw_pairs(programs, setting, np.arange(pairs), key)


def draw_pairs(
  programs: Programs, setting: Setting, rows: np.ndarray, key: jax.Array
) -> tuple[batches.PairBatch, np.ndarray]:
  """`sample_pairs` of prompts by their rows, with a key."""
  pairs = len(rows)
  prompts = prompt_rows(setting.world, np.repeat(rows, 2))
  prompts = prompts.replace(row=np.arange(2 * pairs, dtype=np.int32))
  drawn = programs.draw(setting.policy, prompts, key)
  gold = setting.gold(prompts, drawn)
  response, valid = (
    np.asarray(x).reshape(pairs, 2, -1)
    for x in (drawn.response, drawn.mask > 0)
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
  config: RigConfig, gaps: np.ndarray, seed: int, name: str = "labels"
) -> np.ndarray:
  """Hard labels [B] of somebody who knows gold and errs; see `RigConfig`."""
  generator = rng.numpy_generator(seed, name)
  if not config.temperature:
    return turned_labels(gaps, config.flip, generator)
  chance = generator.random(len(gaps))
  prefers = chance < 1.0 / (1.0 + np.exp(-gaps / config.temperature))
  return prefers.astype(np.float32)


def turned_labels(
  gaps: np.ndarray, flip: float, generator: np.random.Generator
) -> np.ndarray:
  """Hard labels [B] of gaps, each turned with chance `flip`."""
  chance = generator.random(len(gaps))
  return ((gaps > 0) != (chance < flip)).astype(np.float32)
