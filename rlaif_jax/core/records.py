# SPDX-License-Identifier: Apache-2.0
"""Records of text on the host, and their JSONL form.

Records of arrays on the devices are in `core.batches`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import typing
from typing import Any, TypeVar

from rlaif_jax.core import validation

T = TypeVar("T")
# A JSON object.
Row = dict[str, Any]
# A labeler's output for one prompt: log-probs of its options, or a text.
Output = list[float] | str


def content_id(*parts: str) -> str:
  """Returns 16 hex digits of the SHA-256 of the texts."""
  digest = hashlib.sha256()
  for part in parts:
    # A lone surrogate is not valid UTF-8, but must have an id too.
    data = part.encode("utf-8", "surrogatepass")
    digest.update(len(data).to_bytes(8, "little"))
    digest.update(data)
  return digest.hexdigest()[:16]


def is_odd(name: str) -> bool:
  """Returns whether a content id is odd.

  It decides which of two texts is stored first, independent of their source.
  """
  return int(name[-1], 16) % 2 == 1


def from_row(cls: type[T], row: object) -> T:
  """Builds a record, with nested records, from a JSON object.

  Raises:
    ValueError: if it is no object, keys are unknown or missing, or a value has
      another type than the field, is not finite or is not Unicode.
  """
  if not isinstance(row, dict):
    raise ValueError(f"{cls.__name__}: expected an object, found {row!r:.60}")
  names, required, hints = _fields(cls)
  if not names >= row.keys() >= required:
    raise ValueError(
      f"{cls.__name__}: missing keys {sorted(required - row.keys())}, unknown "
      f"keys {sorted(row.keys() - names)}; a row has the keys {sorted(names)}"
    )
  row = {name: _nested(hints[name], value) for name, value in row.items()}
  for name, check in validation.row_checks(cls):
    if name in row and (expected := check(row[name])):
      raise ValueError(
        f"{cls.__name__}: {name} is {row[name]!r:.80}; {expected}"
      )
  return cls(**row)


@functools.cache
def _fields(cls: type) -> tuple[frozenset, frozenset, dict[str, object]]:
  """Returns the names of all and of the required fields, and the hints."""
  fields = dataclasses.fields(cls)
  required = frozenset(
    field.name
    for field in fields
    if field.default is dataclasses.MISSING
    and field.default_factory is dataclasses.MISSING
  )
  names = frozenset(field.name for field in fields)
  return names, required, typing.get_type_hints(cls)


def _nested(hint: object, value: object) -> object:
  """Converts JSON objects and lists to what the annotation names."""
  if not isinstance(value, (dict, list)):
    return value
  kind = _record_in(hint)
  if isinstance(value, dict):
    return value if kind is None else from_row(kind, value)
  if kind is not None:
    value = [from_row(kind, v) if isinstance(v, dict) else v for v in value]
  return tuple(value) if typing.get_origin(hint) is tuple else value


@functools.cache
def _record_in(hint: object) -> type | None:
  """Returns the dataclass that an annotation names, of itself or elements."""
  kinds = [k for k in (hint, *typing.get_args(hint)) if isinstance(k, type)]
  return next(filter(dataclasses.is_dataclass, kinds), None)


def to_row(record: object) -> Row:
  """Returns the JSON object of a record; the inverse of `from_row`."""
  return dataclasses.asdict(record)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
  """A context, with the human-written response if there is one."""

  id: str
  context: str  # the document, the post or the dialogue so far
  response: str  # "" when the data has none
  source: str = ""  # where it comes from: module, subreddit, package


@dataclasses.dataclass(frozen=True, kw_only=True)
class Response:
  """One sampled response."""

  id: str  # id of the Example
  index: int  # which of the samples of this context, from 0
  context: str
  text: str
  tokens: int  # length in tokens, the end token counted
  finished: bool  # ended with an end token before the limit
  log_prob: float = 0.0  # of the response under the policy that sampled it
  ref_log_prob: float = 0.0  # under the reference (0.0 when none was given)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
  """Two responses to one context, in the order in which they are stored.

  `id` is by default the content id of the three texts.
  """

  context: str
  first: str
  second: str
  id: str = ""
  source: str = ""

  def __post_init__(self):
    for name, value in vars(self).items():
      if not isinstance(value, str):
        raise ValueError(f"Pair: {name} is {value!r:.40}; it should be a text")
    if not self.id:
      name = content_id(self.context, self.first, self.second)
      object.__setattr__(self, "id", name)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preference:
  """A pair with P(first is better), always in [0, 1].

  `p_first` averages the two presentation orders for an AI label and is 0.0 or
  1.0 for one human rater. `p_orders` has P(first is better) in each order
  before averaging: (first shown first, first shown second); it is empty for
  humans. `rationales` are those of the first order, then those of the second,
  and `p_rationales` has P(first is better) after each. `confidence` is the
  rater's 1..9 scale of the OpenAI comparisons, 0 if the data has none.
  `cut_tokens` counts the tokens of the context that did not fit into the
  labeler's prompt. `weight` multiplies the pair's loss; weights of mean 1 keep
  the effective learning rate.
  """

  id: str
  context: str
  first: str
  second: str
  p_first: float
  labeler: str
  p_orders: tuple[float, ...] = ()
  rationales: tuple[str, ...] = ()
  p_rationales: tuple[float, ...] = ()
  confidence: int = 0
  cut_tokens: int = 0
  source: str = ""
  weight: float = 1.0

  def __post_init__(self):
    if not 0.0 <= self.weight < math.inf:
      raise ValueError(
        f"Preference {self.id}: weight is {self.weight!r}; it must be finite "
        "and not negative"
      )
    if not 0.0 <= self.p_first <= 1.0:
      raise ValueError(
        f"Preference {self.id}: p_first is {self.p_first!r}; a label is a "
        "probability in [0, 1]"
      )
    object.__setattr__(self, "p_orders", tuple(self.p_orders))
    object.__setattr__(self, "rationales", tuple(self.rationales))
    object.__setattr__(self, "p_rationales", tuple(self.p_rationales))


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkItem:
  """A prompt of a judge benchmark, with its chosen and rejected responses.

  `pairs` has a human label for each chosen response against each rejected one:
  those of the first chosen response, then those of the next. An item of one
  pair is a plain preference. `id` is that of the benchmark.
  """

  id: str
  subset: str
  pairs: tuple[Preference, ...]
  num_chosen: int = 1


def example_of(pair: Preference) -> Example:
  """Returns the context of a pair with the better response, or the first."""
  return Example(
    id=pair.id,
    context=pair.context,
    response=pair.first if pair.p_first >= 0.5 else pair.second,
    source=pair.source,
  )


def pair_of_row(row: object) -> Pair:
  """Returns the pair of a JSON object of a Pair or of a Preference.

  Raises:
    ValueError: if it is neither.
  """
  if isinstance(row, dict) and "p_first" in row:
    fields = {field.name for field in dataclasses.fields(Pair)}
    row = {name: value for name, value in row.items() if name in fields}
  return from_row(Pair, row)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rating:
  """A labeler's score of one response, with the distribution it comes from.

  A pointwise judge gives the expected score in [1, 10] and the probabilities of
  1 to 10; a yes-or-no judge the probability of the good answer, and those of
  yes and no.
  """

  id: str
  context: str
  response: str
  score: float
  probabilities: tuple[float, ...]
  labeler: str

  def __post_init__(self):
    object.__setattr__(self, "probabilities", tuple(self.probabilities))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Usage:
  """Tokens and requests of a labeler; usages can be added.

  `cached_input_tokens` are the `input_tokens` that an endpoint read from its
  cache. `requests` counts requests with a reply, `retries` repeated ones.
  `missing_options` counts options without a reported probability, for which an
  upper bound is used. `estimated` counts replies whose tokens are estimated,
  since the endpoint reports none or impossible ones.
  """

  input_tokens: int = 0
  output_tokens: int = 0
  requests: int = 0
  cached_input_tokens: int = 0
  retries: int = 0
  missing_options: int = 0
  estimated: int = 0

  def __add__(self, other: "Usage") -> "Usage":
    return Usage(
      **{
        field.name: getattr(self, field.name) + getattr(other, field.name)
        for field in dataclasses.fields(self)
      }
    )
