# SPDX-License-Identifier: Apache-2.0
"""The toy task: short texts with a known true reward, in numpy.

A prompt names a topic; a response is a few words and an end token. Each word
has a value under each topic. The writers of the SFT data use good words often
and poor words rarely. Rare words are therefore mostly bad, and a small set of
preferences has little evidence about them.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import numpy as np

from rlaif_jax.core import validation

END = 1
# Tokens before the first topic: 0 pads, 1 ends a response.
_FIRST = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToyWorldConfig(validation.Validated):
  """Sizes of the world, and its true (gold) reward.

  The gold reward of a response is the sum of the values of its words, minus
  `penalty` times the squared number of words beyond `limit`. The mean value
  of the writers' words is 0 under each topic, so length alone is worth nothing.

  Attributes:
    topics: number of topics.
    words: number of words.
    max_words: most words of a response.
    shortest: fewest words that writers use.
    longest: most words that writers use.
    zipf: exponent of the writers' word frequencies.
    decline: mean value of the commonest word minus that of the rarest, in
      standard deviations of a word's value.
    bonus: added to the value of each word; longer texts then look better in
      all pairs.
    limit: number of words without penalty; 0 is no limit. Writers stay below
      it, so pairs hold no evidence of the penalty: a systematic error of every
      proxy. Without it, proxies err independently, outside of their data.
    penalty: weight of the squared excess over `limit`.
  """

  topics: validation.PositiveInt = 4
  words: Annotated[int, validation.Bounds(ge=2)] = 40
  max_words: int = 12
  shortest: validation.PositiveInt = 3
  longest: int = 8
  zipf: float = 1.0
  decline: float = 2.0
  bonus: float = 0.0
  limit: validation.NonNegativeInt = 0
  penalty: float = 0.0

  def __post_init__(self):
    super().__post_init__()
    if not self.shortest <= self.longest <= self.max_words:
      raise ValueError(
        f"ToyWorldConfig: shortest, longest and max_words are {self.shortest}, "
        f"{self.longest} and {self.max_words}; they must not decrease"
      )
    if bool(self.limit) != bool(self.penalty):
      raise ValueError(
        f"ToyWorldConfig: limit is {self.limit} and penalty is {self.penalty}; "
        "set both or neither"
      )

  @property
  def vocab_size(self) -> int:
    """Number of tokens: padding, end, topics and words."""
    return _FIRST + self.topics + self.words


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
  """Word frequencies of the writers, and word values.

  Attributes:
    config: sizes.
    usage: [topics, words] probabilities; rows sum to 1.
    values: [topics, words].
  """

  config: ToyWorldConfig
  usage: np.ndarray
  values: np.ndarray

  def prompts(self, rows: np.ndarray) -> np.ndarray:
    """Returns prompts [n, 1]; row r has topic r modulo the number of topics."""
    return (_FIRST + rows % self.config.topics)[:, None].astype(np.int32)

  def write(self, prompts: np.ndarray, generator: np.random.Generator):
    """Samples the writers: (tokens [n, max_words + 1], mask), with the end."""
    c = self.config
    n, width = len(prompts), c.max_words + 1
    lengths = generator.integers(c.shortest, c.longest + 1, n)
    tokens = np.zeros((n, width), np.int32)
    topics = prompts[:, 0] - _FIRST
    for topic in range(c.topics):
      rows = np.flatnonzero(topics == topic)
      tokens[rows] = generator.choice(
        c.words, (len(rows), width), p=self.usage[topic]
      )
    tokens += _FIRST + c.topics
    column = np.arange(width)[None]
    tokens[column == lengths[:, None]] = END
    mask = (column <= lengths[:, None]).astype(np.float32)
    return np.where(mask > 0, tokens, 0).astype(np.int32), mask

  def uniform(self) -> "World":
    """Returns the world whose writers use all words equally often."""
    return dataclasses.replace(
      self, usage=np.full_like(self.usage, 1.0 / self.config.words)
    )

  def biased(self, size: float, generator: np.random.Generator) -> "World":
    """Returns the world with biased word values.

    The error of a word's value has `size` standard deviations of a word's
    value; the mean value of the writers' words stays 0.
    """
    error = size * self.values.std() * generator.normal(size=self.values.shape)
    values = _centered(self.usage, self.values + error)
    return dataclasses.replace(self, values=values)

  def tilted(self, strength: float) -> "World":
    """Returns the world whose writers prefer valuable words.

    Word frequencies are multiplied by exp(strength * value): the optimum of
    the value with a KL penalty of 1 / strength.
    """
    usage = self.usage * np.exp(strength * self.values)
    return dataclasses.replace(self, usage=usage / usage.sum(1, keepdims=True))

  def gold(
    self, prompts: np.ndarray, response: np.ndarray, mask: np.ndarray
  ) -> np.ndarray:
    """Returns the true reward [n] of responses [n, R].

    Tokens that are not words have the value of the worst word.
    """
    c = self.config
    topics = prompts[:, 0] - _FIRST
    word = response - _FIRST - c.topics
    values = self.values[topics[:, None], np.clip(word, 0, c.words - 1)]
    values = np.where(word < 0, self.values.min(), values)
    is_word = (mask > 0) & (response != END)
    count = is_word.sum(axis=1)
    reward = np.where(is_word, values + c.bonus, 0.0).sum(axis=1)
    if c.limit:
      reward = reward - c.penalty * np.maximum(count - c.limit, 0) ** 2
    return reward


def make_world(config: ToyWorldConfig, seed: int) -> World:
  """Draws a world: ranks, frequencies and values of words for each topic."""
  generator = np.random.default_rng([seed, 0x51])
  c = config
  rank = np.stack([generator.permutation(c.words) for _ in range(c.topics)])
  usage = 1.0 / (1.0 + rank) ** c.zipf
  usage /= usage.sum(axis=1, keepdims=True)
  values = generator.normal(size=(c.topics, c.words))
  values += c.decline * (0.5 - rank / (c.words - 1))
  return World(config=c, usage=usage, values=_centered(usage, values))


def _centered(usage: np.ndarray, values: np.ndarray) -> np.ndarray:
  """Shifts values so that the writers' mean is 0 under each topic."""
  return values - (usage * values).sum(axis=1, keepdims=True)
