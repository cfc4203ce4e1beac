# SPDX-License-Identifier: Apache-2.0
"""Known gold rewards of (document, summary), and simulated human raters.

A `GoldReward` scores responses by parts that measure aspects of quality.
`program` is the default; `evaluation.nearness` compares with the human line.
Labelers and reward models never read it. Human labels are gold margins with
Bradley-Terry noise.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
import re
from typing import Annotated, Callable, Mapping, Sequence

import numpy as np

from rlaif_jax.core import records
from rlaif_jax.core import validation
from rlaif_jax.ops import statistics

_STOP = frozenset(
  """a about above after again all also an and any are as at be been before
  being below between both but by can could did do does each for from further
  had has have here how if in into is it its itself may might more most must
  no nor not of off on once only or other our out over own same should so some
  such than that the their them then there these they this those through to
  too under until up use used uses using very was we were what when where
  which while who will with would you your""".split()
)
# Words are compared by runs of this many letters, so that inflected and
# half-copied words count in part and no stemmer is needed.
_GRAM = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class GoldConfig(validation.Validated):
  """Weights of the parts (they are normalised), and lengths in words."""

  coverage: validation.NonNegativeFloat = 0.20
  faithfulness: validation.NonNegativeFloat = 0.20
  brevity: validation.NonNegativeFloat = 0.35
  no_repetition: validation.NonNegativeFloat = 0.20
  form: validation.NonNegativeFloat = 0.05
  min_words: validation.PositiveInt = 10
  target_words: int = 14
  max_words: int = 28
  salient_words: validation.PositiveInt = 6

  def __post_init__(self):
    super().__post_init__()
    lengths = (self.min_words, self.target_words, self.max_words)
    if not lengths[0] <= lengths[1] < lengths[2]:
      raise ValueError(
        "GoldConfig: min_words, target_words and max_words are "
        f"{lengths}; they must satisfy min <= target < max"
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class GoldScore:
  """The total and its parts, all in [0, 1]."""

  total: float
  coverage: float
  faithfulness: float
  brevity: float
  no_repetition: float
  form: float


PARTS = ("coverage", "faithfulness", "brevity", "no_repetition", "form")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GoldScores:
  """Gold of n responses.

  Attributes:
    total: [n], in [0, 1].
    parts: name of a part -> [n], in [0, 1].
  """

  total: np.ndarray
  parts: Mapping[str, np.ndarray]


# (documents, responses) -> their gold.
GoldReward = Callable[[Sequence[str], Sequence[str]], GoldScores]


@functools.lru_cache(maxsize=65536)
def grams(word: str) -> frozenset[str]:
  """Returns the 4-grams of a word with a start mark: "^loa", "load"."""
  marked = "^" + word
  count = max(1, len(marked) - _GRAM + 1)
  return frozenset(marked[i : i + _GRAM] for i in range(count))


def content_words(text: str) -> list[str]:
  """Returns lower-case words of three letters or more, without stop words."""
  words = re.findall(r"[a-z]{3,}", text.lower())
  return [word for word in words if word not in _STOP]


@functools.lru_cache(maxsize=65536)
def document_grams(document: str) -> frozenset[str]:
  """Returns the 4-grams of a document's content words."""
  return frozenset().union(*map(grams, content_words(document)))


@functools.lru_cache(maxsize=65536)
def salience(document: str) -> dict[str, float]:
  """Returns the weight of each content word, higher if frequent or early."""
  words = content_words(document)
  counts = collections.Counter(words)
  first = {}
  for place, word in enumerate(words):
    first.setdefault(word, place)
  return {
    word: math.log1p(count) * (1.0 + 0.5 * math.exp(-first[word] / 10.0))
    for word, count in counts.items()
  }


def score(
  document: str, summary: str, config: GoldConfig | None = None
) -> GoldScore:
  """Returns the gold reward of a summary.

  Args:
    document: the whole source text.
    summary: may be empty.
    config: weights; None uses the defaults of `GoldConfig`.

  Returns:
    GoldScore. coverage: salience of the document's words, each times the
    squared fraction of its 4-grams in the summary (above one half), over the
    salience of the `salient_words` most salient words; at most 1.
    faithfulness: fraction of the 4-grams of the summary's content words that
    are in the document. brevity: 1 from `min_words` to `target_words` words,
    falling to 0 at `max_words` and at no words. no_repetition: fraction of
    distinct content words, times the fraction of distinct word pairs. form:
    half for a letter at the start, half for a word character or a single
    period at the end.
  """
  config = config or GoldConfig()
  weights = salience(document)
  words = content_words(summary)
  present = frozenset().union(*map(grams, words))
  top = sum(sorted(weights.values(), reverse=True)[: config.salient_words])
  covered = sum(
    weight * share * share
    for word, weight in weights.items()
    if (share := len(grams(word) & present) / len(grams(word))) > 0.5
  )
  all_words = summary.split()
  pairs = list(zip(all_words, all_words[1:]))
  parts = {
    "coverage": min(1.0, covered / top) if top else 0.0,
    "faithfulness": (
      len(present & document_grams(document)) / len(present) if present else 0.0
    ),
    "brevity": _brevity(len(all_words), config),
    "no_repetition": (
      len(set(words))
      / len(words)
      * (len(set(pairs)) / len(pairs) if pairs else 1.0)
      if words
      else 0.0
    ),
    "form": _form(summary.strip()),
  }
  scale = sum(getattr(config, name) for name in PARTS)
  total = sum(getattr(config, name) * parts[name] for name in PARTS) / scale
  return GoldScore(total=total, **parts)


def _brevity(words: int, config: GoldConfig) -> float:
  if words < config.min_words:
    return words / config.min_words
  span = config.max_words - config.target_words
  return min(1.0, max(0.0, (config.max_words - words) / span))


def _form(summary: str) -> float:
  if not summary:
    return 0.0
  good_end = bool(re.search(r"\w\.?$", summary)) and summary.isascii()
  return 0.5 * summary[0].isalpha() + 0.5 * good_end


def program(
  documents: Sequence[str],
  summaries: Sequence[str],
  config: GoldConfig | None = None,
) -> GoldScores:
  """Returns `score` of each summary; the default `GoldReward`."""
  scores = [
    score(d, s, config) for d, s in zip(documents, summaries, strict=True)
  ]
  return GoldScores(
    total=np.asarray([s.total for s in scores]),
    parts={
      name: np.asarray([getattr(s, name) for s in scores]) for name in PARTS
    },
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class HumanConfig(validation.Validated):
  """Simulated raters.

  P(first is better) = sigmoid((gold(first) - gold(second)) / temperature).

  Attributes:
    agreement: fraction of the pairs on which two raters agree (73-77 % among
      the raters of the paper's summaries); calibrates the temperature.
    temperature: 0 calibrates it by `agreement`.
    seed: of the labels.
  """

  agreement: Annotated[float, validation.Bounds(gt=0.5, lt=1)] = 0.75
  temperature: validation.NonNegativeFloat = 0.0
  seed: int = 0


def margins(
  pairs: Sequence[records.Pair], reward: GoldReward = program
) -> np.ndarray:
  """Returns gold(first) - gold(second) of each pair, [n]."""
  contexts = [pair.context for pair in pairs]
  first = reward(contexts, [pair.first for pair in pairs]).total
  return first - reward(contexts, [pair.second for pair in pairs]).total


def expected_agreement(margin: np.ndarray, temperature: float) -> float:
  """Returns P(two independent raters agree), the mean of p^2 + (1-p)^2."""
  p = statistics.expit(margin / temperature)
  return float(np.mean(p**2 + (1.0 - p) ** 2))


def calibrate_temperature(margin: np.ndarray, target: float) -> float:
  """Returns the temperature at which two raters agree on `target` of pairs.

  Raises:
    ValueError: raters without noise agree on fewer pairs (too many ties).
  """
  low, high = 1e-6, 1e3
  if expected_agreement(margin, low) < target:
    raise ValueError(
      f"agreement is {target}, and raters without noise agree on only "
      f"{expected_agreement(margin, low):.3f} of these {len(margin)} pairs: "
      "too many have equal gold"
    )
  for _ in range(100):
    middle = math.sqrt(low * high)
    if expected_agreement(margin, middle) > target:
      low = middle
    else:
      high = middle
  return math.sqrt(low * high)


def rate_pairs(
  pairs: Sequence[records.Pair],
  config: HumanConfig,
  reward: GoldReward = program,
) -> tuple[list[records.Preference], dict[str, float]]:
  """Returns one hard human label for each pair, and their statistics.

  The noise of a pair is a function of (seed, pair id). A calibrated temperature
  also depends on the other pairs.

  Args:
    pairs: pairs to label.
    config: agreement or temperature, and seed.
    reward: gold, in whose units the temperature is.

  Returns:
    Preferences with p_first 0.0 or 1.0; and temperature, expected agreement of
    two raters, and fraction of labels that agree with gold.
  """
  margin = margins(pairs, reward)
  temperature = config.temperature or calibrate_temperature(
    margin, config.agreement
  )
  chance = statistics.expit(margin / temperature)
  labels = []
  for pair, p in zip(pairs, chance, strict=True):
    number = int(records.content_id(str(config.seed), pair.id), 16)
    labels.append(
      records.Preference(
        id=pair.id,
        context=pair.context,
        first=pair.first,
        second=pair.second,
        p_first=float(number / 2.0**64 < p),
        labeler="human",
        source=pair.source,
      )
    )
  follows = np.mean(
    [(label.p_first > 0.5) == (g > 0) for label, g in zip(labels, margin)]
  )
  return labels, {
    "temperature": temperature,
    "agreement": expected_agreement(margin, temperature),
    "follows_gold": float(follows),
    "n": len(labels),
  }


def grade(total: float, low: float, high: float) -> int:
  """Returns a linear grade: 1 at or below `low`, 10 at or above `high`."""
  share = (total - low) / (high - low)
  return int(np.clip(math.floor(1 + 10 * share), 1, 10))
