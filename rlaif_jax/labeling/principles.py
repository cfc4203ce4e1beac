# SPDX-License-Identifier: Apache-2.0
"""Principles: sentences that steer a judge and a reward model.

Sun et al., "SALMON", arXiv 2310.05910. A file is TOML:

    [[principles]]
    text = "The response is one short phrase."
    negation = "The response is a detailed paragraph."
    weight = 2.0
    where = "(?i)synopsis"

A reward model that reads principles reads the response first, then the context,
and the principles last (`render`).
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
import tomllib
from typing import Sequence

import numpy as np

from rlaif_jax.core import inputs
from rlaif_jax.core import parsing
from rlaif_jax.core import protocols
from rlaif_jax.core import records
from rlaif_jax.core import validation

FILES = pathlib.Path(__file__).parent / "templates"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Principle(validation.Validated):
  """A sentence about a good response.

  Attributes:
    text: the sentence.
    negation: the opposite sentence, by which a reward model learns to read
      principles; "": none.
    weight: relative frequency with which it is drawn.
    where: regular expression; contexts without a match have no such principle.
    always: it is not drawn, but in every prompt of the reward model in RL: a
      prohibition that is added without training.
  """

  text: str
  negation: str = ""
  weight: validation.PositiveFloat = 1.0
  where: str = ""
  always: bool = False

  def __post_init__(self):
    super().__post_init__()
    for name in ("text", "negation"):
      value = getattr(self, name)
      if (
        "\n" in value
        or value.strip() != value
        or (name == "text" and not value)
      ):
        raise ValueError(
          f"Principle: {name} is {value!r:.80}; it should be a sentence on one "
          "line"
        )
    if self.text == self.negation:
      raise ValueError(f"Principle: {self.text!r:.60} is its own negation")
    try:
      re.compile(self.where)
    except re.error as error:
      raise ValueError(
        f"Principle: where is {self.where!r:.60}, which is no regular "
        f"expression: {error}"
      ) from error


@dataclasses.dataclass(frozen=True, kw_only=True)
class Principles:
  """The principles of a file.

  Attributes:
    principles: all of them.
  """

  principles: tuple[Principle, ...]

  def __post_init__(self):
    texts = [principle.text for principle in self.principles]
    if len(set(texts)) < len(texts) or not any(
      not principle.always for principle in self.principles
    ):
      raise ValueError(
        f"the principles are {texts}; write at least one that is not 'always', "
        "each text once"
      )

  def of(self, context: str) -> list[Principle]:
    """Returns the principles that can be drawn for a context."""
    return [
      principle
      for principle in self.principles
      if not principle.always and re.search(principle.where, context)
    ]

  def standing(self, context: str) -> list[Principle]:
    """Returns the principles that are always in the prompt of a context."""
    return [
      principle
      for principle in self.principles
      if principle.always and re.search(principle.where, context)
    ]

  def fingerprint(self) -> str:
    """Returns a hash of the principles."""
    return records.content_id(repr(self.principles))


def read(path: str) -> Principles:
  """Reads a file of principles.

  Args:
    path: a .toml file, or the name of a file in `FILES`.

  Raises:
    ValueError: the file is missing or invalid; names it.
  """
  place = FILES / f"{path}.toml"
  if not place.is_file():
    place = pathlib.Path(path)
  if not place.is_file():
    known = sorted(file.stem for file in FILES.glob("*_principles.toml"))
    raise ValueError(
      f"no file of principles {path!r}; name a .toml file, or one of {known}"
    )
  with parsing.naming(place):
    row = tomllib.loads(inputs.note(place).read_text(encoding="utf-8"))
    return records.from_row(Principles, row)


def draw(
  principles: Sequence[Principle], number: int, generator: np.random.Generator
) -> list[Principle]:
  """Returns principles drawn by weight, without replacement.

  Args:
    principles: to draw from.
    number: number of principles; all, if there are fewer.
    generator: of the draw.
  """
  weights = np.asarray([principle.weight for principle in principles])
  chosen = generator.choice(
    len(principles),
    size=min(number, len(principles)),
    replace=False,
    p=weights / weights.sum(),
  )
  return [principles[i] for i in chosen]


def render(
  context: str,
  response: str,
  sentences: Sequence[str],
  tokenizer: protocols.Tokenizer,
  max_tokens: int,
) -> str:
  """Returns the text that a principle-conditioned reward model reads.

  Raises:
    ValueError: response and principles have more than `max_tokens` tokens
      without any context. A longer context loses its end.
  """
  before = f"Response\n{response}\n\nText\n"
  after = "\n\nPrinciples\n" + "".join(f"- {text}\n" for text in sentences)
  fixed = len(tokenizer.encode_plain(before)) + len(tokenizer.encode(after))
  ids = tokenizer.encode_plain(context)
  room = max_tokens - fixed
  if room < 0:
    raise ValueError(
      f"a response with {len(sentences)} principles has {fixed} tokens, and "
      f"the reward model reads {max_tokens}; train it from a model with a "
      "larger SequenceConfig.max_response, or draw fewer principles"
    )
  if len(ids) > room:
    context = tokenizer.decode(ids[:room])
  return before + context + after
