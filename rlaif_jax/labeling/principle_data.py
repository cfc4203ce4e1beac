# SPDX-License-Identifier: Apache-2.0
"""Preferences that train a reward model to read principles.

Sun et al., arXiv 2310.05910: a row has some principles, each negated with
probability 1/2, and its label is that of the principle that decides most
clearly. Half of the rows of a pair therefore prefer the other response, and a
model that does not read the principles cannot tell which.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from typing import Mapping, Sequence

import numpy as np

from rlaif_jax.core import protocols
from rlaif_jax.core import records
from rlaif_jax.core import rng
from rlaif_jax.core import validation
from rlaif_jax.labeling import principles as principles_lib

_CONSTANT = 1e-9  # variance of scores that differ by rounding only
_EDGE = 1e-6  # smallest probability of a judgment that is not text


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrincipleDataConfig(validation.Validated):
  """How rows are drawn; the defaults are those of the authors' code.

  Fields:
    passes: rows per pair.
    stop_probability: of the geometric number of principles of a row.
    max_principles: maximum number of principles of a row.
    negate_probability: of a principle that has a negation.
    flip_probability: of a wrong label, as noise.
    max_tokens: limit of a row: max_response - 1 of the reward model.
    seed: of all draws.
  """

  passes: validation.PositiveInt = 4
  stop_probability: validation.Probability = 0.2
  max_principles: validation.PositiveInt = 8
  negate_probability: validation.Probability = 0.5
  flip_probability: validation.Probability = 0.1
  max_tokens: validation.PositiveInt = 512
  seed: int = 0

  def __post_init__(self):
    super().__post_init__()
    if self.stop_probability == 0:
      raise ValueError(
        "PrincipleDataConfig.stop_probability is 0; a geometric number needs "
        "one above 0, such as 0.2"
      )


def scores(
  labels: Sequence[records.Preference],
) -> list[dict[str, float]]:
  """Returns principle -> score of the first response against the second.

  The score is the mean log-odds of both orders, 0 if they disagree, divided by
  the variance of the principle's scores over the labels.

  Args:
    labels: of a principle judge.
  """
  found = []
  values = collections.defaultdict(list)
  for label in labels:
    count = len(label.rationales) // 2
    row = {}
    for i, text in enumerate(label.rationales[:count]):
      one, two = (_log_odds(label.p_rationales[j]) for j in (i, count + i))
      row[text] = (one + two) / 2 if one * two > 0 else 0.0
      values[text].append(row[text])
    found.append(row)
  variances = {text: float(np.var(own)) for text, own in values.items()}
  # A principle whose scores are all equal keeps their unit.
  variances = {t: v if v > _CONSTANT else 1.0 for t, v in variances.items()}
  return [
    {text: value / variances[text] for text, value in row.items()}
    for row in found
  ]


def rows(
  labels: Sequence[records.Preference],
  principles: principles_lib.Principles,
  tokenizer: protocols.Tokenizer,
  config: PrincipleDataConfig,
) -> tuple[list[records.Preference], dict[str, int]]:
  """Returns preferences whose responses are `principles.render`, and counts.

  Args:
    labels: of a principle judge.
    principles: those of the judge.
    tokenizer: that of the reward model.
    config: how rows are drawn.

  Raises:
    ValueError: a label is of other principles, or a row does not fit.
  """
  known = {p.text: p for p in principles.principles if not p.always}
  result, counts = [], collections.Counter(ties=0, negated=0, flipped=0)
  for label, found in zip(labels, scores(labels), strict=True):
    _check(label, found, known)
    for number in range(config.passes if found else 0):
      generator = rng.numpy_generator(
        config.seed, f"principles/{label.id}", number
      )
      size = min(
        int(generator.geometric(config.stop_probability)), config.max_principles
      )
      drawn = principles_lib.draw(
        [known[text] for text in found], size, generator
      )
      negated = [
        bool(principle.negation)
        and generator.random() < config.negate_probability
        for principle in drawn
      ]
      signed = [
        -found[principle.text] if is_negated else found[principle.text]
        for principle, is_negated in zip(drawn, negated, strict=True)
      ]
      dominant = max(signed, key=abs)
      if dominant == 0:
        counts["ties"] += 1
        continue
      is_flipped = generator.random() < config.flip_probability
      counts.update(negated=sum(negated), flipped=is_flipped)
      sentences = [
        principle.negation if is_negated else principle.text
        for principle, is_negated in zip(drawn, negated, strict=True)
      ]
      first, second = (
        principles_lib.render(
          label.context, response, sentences, tokenizer, config.max_tokens
        )
        for response in (label.first, label.second)
      )
      result.append(
        records.Preference(
          id=f"{label.id}/{number}",
          context="",
          first=first,
          second=second,
          p_first=float((dominant > 0) != is_flipped),
          labeler=label.labeler,
        )
      )
  return result, dict(counts)


def _check(
  label: records.Preference,
  found: Mapping[str, float],
  known: Mapping[str, principles_lib.Principle],
) -> None:
  if not found and label.first != label.second or found.keys() - known.keys():
    raise ValueError(
      f"the label {label.id} is by the principles {sorted(found)}, and the "
      f"file has {sorted(known)}; label the pairs with PrincipleJudgeConfig "
      "and the same principles_file"
    )


def _log_odds(p: float) -> float:
  p = min(max(p, _EDGE), 1.0 - _EDGE)
  return math.log(p / (1.0 - p))
