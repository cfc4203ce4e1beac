# SPDX-License-Identifier: Apache-2.0
"""A gold reward for one-line responses: nearness to the line a person wrote.

A longer response is not nearer. The parts are the similarity of embeddings, the
overlap of character n-grams (chrF), and rules of a good synopsis. Policies and
labelers see neither the human lines of test documents nor the embeddings.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from typing import Callable, Mapping, Sequence

import numpy as np

from rlaif_jax.core import validation
from rlaif_jax.evaluation import gold

# Texts -> unit vectors [n, D].
Embed = Callable[[Sequence[str]], np.ndarray]

_MAX_ORDER = 6


@dataclasses.dataclass(frozen=True, kw_only=True)
class NearnessConfig(validation.Validated):
  """Weights of the parts, which are normalised.

  Attributes:
    similarity: weight of the cosine of the embeddings; below 0 it counts as 0.
    chrf: weight of `chrf`.
    rules: weight of `rules`.
    max_characters: longest line that the rules allow.
  """

  similarity: validation.NonNegativeFloat = 0.6
  chrf: validation.NonNegativeFloat = 0.3
  rules: validation.NonNegativeFloat = 0.1
  max_characters: validation.PositiveInt = 80

  def __post_init__(self):
    super().__post_init__()
    if not self.similarity + self.chrf + self.rules > 0:
      raise ValueError(
        "NearnessConfig: similarity, chrf and rules are all 0; at least one "
        "weight must be positive"
      )


def character_ngrams(text: str, order: int) -> collections.Counter[str]:
  """Returns the counts of n-grams of lower-case letters without blanks."""
  letters = "".join(text.lower().split())
  return collections.Counter(
    letters[i : i + order] for i in range(len(letters) - order + 1)
  )


def chrf(response: str, reference: str) -> float:
  """Returns the F1 of character n-grams, in [0, 1].

  Precision and recall are means over the orders 1 to 6 that a text is long
  enough for (Popovic 2015, "chrF", https://aclanthology.org/W15-3049).

  Departures from the paper's preferred form: precision and recall have equal
  weight (beta 1; a beta of 3 rewards length), and case is ignored.

  Args:
    response: text that is scored; without letters it gets 0.
    reference: text that it is compared with.
  """
  precisions, recalls = [], []
  for order in range(1, _MAX_ORDER + 1):
    found, wanted = (
      character_ngrams(text, order) for text in (response, reference)
    )
    common = (found & wanted).total()
    if found:
      precisions.append(common / found.total())
    if wanted:
      recalls.append(common / wanted.total())
  if not precisions or not recalls:
    return 0.0
  precision, recall = np.mean(precisions), np.mean(recalls)
  total = precision + recall
  return float(2 * precision * recall / total) if total else 0.0


def rouge_l(response: str, reference: str) -> float:
  """Returns ROUGE-L, the F1 of the longest common subsequence of words.

  Lin 2004, "ROUGE", https://aclanthology.org/W04-1013, with equal weights of
  precision and recall. Words are runs of lower-case letters and digits.

  Args:
    response: text that is scored; without words it gets 0.
    reference: text that it is compared with.
  """
  own, wanted = (
    re.findall(r"\w+", text.lower()) for text in (response, reference)
  )
  if not own or not wanted:
    return 0.0
  # Lengths for the words so far, and each prefix of the reference.
  lengths = [0] * (len(wanted) + 1)
  for word in own:
    previous = 0
    for i, other in enumerate(wanted, start=1):
      longest = max(lengths[i], lengths[i - 1])
      if word == other:
        longest = previous + 1
      previous, lengths[i] = lengths[i], longest
  return 2 * lengths[-1] / (len(own) + len(wanted))


def rules(text: str, max_characters: int = 80) -> float:
  """Returns the fraction of the rules of a good synopsis that a text obeys.

  The rules: no article at the start, no full stop at the end, at most
  `max_characters` long, one line, and no content word twice. They are the
  checkable ones of Debian Developer's Reference, sections 6.2.1 and 6.2.2, and
  repetition. That the package's name is absent is not checked, since the name
  may be unknown.

  Args:
    text: a response without blanks at its ends; an empty one gets 0.
    max_characters: longest line that obeys the rules.
  """
  if not text:
    return 0.0
  words = gold.content_words(text)
  obeyed = (
    not re.match(r"(an?|the)\b", text, re.I),
    not text.endswith("."),
    len(text) <= max_characters,
    "\n" not in text,
    len(set(words)) == len(words),
  )
  return sum(obeyed) / len(obeyed)


def score(
  responses: Sequence[str],
  references: Sequence[str],
  embed: Embed,
  config: NearnessConfig = NearnessConfig(),
) -> gold.GoldScores:
  """Returns the nearness of responses to the human lines, in [0, 1].

  Args:
    responses: [n] texts; an empty one gets 0 in all parts.
    references: [n] human lines.
    embed: returns unit vectors of texts.
    config: weights.
  """
  responses = [text.strip() for text in responses]
  # Both at once, so that equal texts are embedded once.
  vectors = embed([*responses, *references]).astype(np.float64)
  own, human = vectors[: len(responses)], vectors[len(responses) :]
  has_text = np.asarray([bool(text) for text in responses])
  cosine = np.clip(np.sum(own * human, axis=1), 0.0, 1.0)
  parts = {
    "similarity": np.where(has_text, cosine, 0.0),
    "chrf": np.asarray(
      [chrf(a, b) for a, b in zip(responses, references, strict=True)]
    ),
    "rules": np.asarray([rules(a, config.max_characters) for a in responses]),
  }
  weights = {
    "similarity": config.similarity,
    "chrf": config.chrf,
    "rules": config.rules,
  }
  total = sum(weights[name] * parts[name] for name in parts)
  return gold.GoldScores(total=total / sum(weights.values()), parts=parts)


def reward(
  human_lines: Mapping[str, str],
  embed: Embed,
  config: NearnessConfig = NearnessConfig(),
) -> gold.GoldReward:
  """Returns a gold reward that finds the human line of each document.

  Args:
    human_lines: document -> the line that a person wrote for it.
    embed: returns unit vectors of texts.
    config: weights.
  """

  def nearness(
    documents: Sequence[str], responses: Sequence[str]
  ) -> gold.GoldScores:
    missing = [text for text in documents if text not in human_lines]
    if missing:
      raise ValueError(
        f"{len(missing)} of {len(documents)} documents have no human line, "
        f"{missing[0]!r:.80} first; the directory of the references "
        "(NearnessSource.references_dir) must have the examples of these "
        "documents"
      )
    references = [human_lines[text] for text in documents]
    return score(responses, references, embed, config)

  return nearness
