# SPDX-License-Identifier: Apache-2.0
"""The world of the rig: tiny texts whose true reward is known, in numpy.

A prompt names a topic; a response is a few words and an end token. Each word
has a value under each topic. Writers (whom SFT imitates) use good words often
and poor words rarely, so what is seldom seen is mostly bad, and a preference
data set of limited size says little about it.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import numpy as np

from rlaif_jax.core import validation

END = 1
# Tokens before the first topic: 0 fills, 1 ends a response.
_FIRST = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorldConfig(validation.Validated):
  """Sizes of the world, and what its gold reward is.

  A response's gold reward is the sum of its words' values, minus `penalty` for
  the square of what it has more than `limit` words. Under each topic the words
  that writers use have the mean value 0, so length as such is worth nothing.
  `decline` is how much lower the mean value of the rarest word is than that
  of the commonest, in standard deviations of a word's value.

  The penalty is the systematic error: writers stay below the limit, so no pair
  shows it. `bonus` is what every word adds, which makes longer texts better as
  far as pairs show. Without them a proxy errs where its own data end, and not
  as another would.
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
        f"WorldConfig: shortest is {self.shortest}, longest {self.longest} and "
        f"max_words {self.max_words}; each must be at most the next"
      )
    if bool(self.limit) != bool(self.penalty):
      raise ValueError(
        f"WorldConfig: limit is {self.limit} and penalty {self.penalty}; they "
        "go together"
      )

  @property
  def vocab_size(self) -> int:
    """Fill, end, topics and words."""
    return _FIRST + self.topics + self.words


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
  """A drawn world: how often writers use a word, and what it is worth.

  usage: [topics, words], rows sum to 1. values: [topics, words].
  """

  config: WorldConfig
  usage: np.ndarray
  values: np.ndarray

  def prompts(self, rows: np.ndarray) -> np.ndarray:
    """[n, 1] tokens: row r is about topic r modulo their number."""
    return (_FIRST + rows % self.config.topics)[:, None].astype(np.int32)

  def write(self, prompts: np.ndarray, generator: np.random.Generator):
    """What writers say: (tokens [n, max_words + 1], mask), end included."""
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

  def even(self) -> "World":
    """The world in which writers use all words alike."""
    return dataclasses.replace(
      self, usage=np.full_like(self.usage, 1.0 / self.config.words)
    )

  def tasted(self, size: float, generator: np.random.Generator) -> "World":
    """The world of somebody who is wrong about what words are worth.

    Each word's value has an error of `size` standard deviations of a word's
    value; what writers say is worth 0 all the same.
    """
    error = size * self.values.std() * generator.normal(size=self.values.shape)
    values = _centered(self.usage, self.values + error)
    return dataclasses.replace(self, values=values)

  def tilted(self, strength: float) -> "World":
    """The world in which writers choose words by what they are worth.

    Each word is used exp(strength * value) times as often as before, which is
    the best that a penalty of 1 / strength a nat allows.
    """
    usage = self.usage * np.exp(strength * self.values)
    return dataclasses.replace(self, usage=usage / usage.sum(1, keepdims=True))

  def gold(
    self, prompts: np.ndarray, response: np.ndarray, mask: np.ndarray
  ) -> np.ndarray:
    """The true reward [n] of responses [n, R]; tokens that are no words have
    the value of the worst word."""
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


def make_world(config: WorldConfig, seed: int) -> World:
  """Draws a world: rank words for each topic, give them uses and values."""
  generator = np.random.default_rng([seed, 0x51])
  c = config
  rank = np.stack([generator.permutation(c.words) for _ in range(c.topics)])
  usage = 1.0 / (1.0 + rank) ** c.zipf
  usage /= usage.sum(axis=1, keepdims=True)
  values = generator.normal(size=(c.topics, c.words))
  values += c.decline * (0.5 - rank / (c.words - 1))
  return World(config=c, usage=usage, values=_centered(usage, values))


def _centered(usage: np.ndarray, values: np.ndarray) -> np.ndarray:
  """Values of which what writers use has the mean 0 under each topic."""
  return values - (usage * values).sum(axis=1, keepdims=True)
