# SPDX-License-Identifier: Apache-2.0
"""Rubrics: weighted yes-or-no criteria that a response should meet.

A JSONL file has one rubric per context. A row without a context is the rubric
of all contexts that have no row of their own; a TOML file is one such rubric. A
language model can write rubrics (`labeling.rubric_writer`).
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import pathlib
import tomllib
from typing import Callable, Iterable, Sequence

from rlaif_jax.core import inputs
from rlaif_jax.core import jsonl
from rlaif_jax.core import parsing
from rlaif_jax.core import records

FILES = pathlib.Path(__file__).parent / "templates"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Criterion:
  """A yes-or-no question about a response.

  Attributes:
    text: the question.
    weight: its weight; negative if "yes" speaks against the response. A
      criterion of weight 0 is not asked.
    hard: a response that does not meet it ranks below all that do. The weight
      of a hard criterion has only a sign.
  """

  text: str
  weight: float = 1.0
  hard: bool = False

  def __post_init__(self):
    if not self.text or self.text.strip() != self.text or "\n" in self.text:
      raise ValueError(
        f"Criterion: text is {self.text!r:.80}; it should be one line that "
        "asks a question to be answered by yes or no"
      )
    if not math.isfinite(self.weight):
      raise ValueError(
        f"Criterion: weight of {self.text!r:.60} is {self.weight}; it should "
        "be a finite number"
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rubric:
  """The criteria of a context.

  Attributes:
    criteria: the criteria.
    context: context of the responses; "": every context without a rubric.
  """

  criteria: tuple[Criterion, ...]
  context: str = ""

  def __post_init__(self):
    if not self.asked:
      raise ValueError(
        f"Rubric: the {len(self.criteria)} criteria of the context "
        f"{self.context!r:.60} have no weight; write at least one criterion "
        'with a weight other than 0, such as {"text": "Is it one sentence?"}'
      )

  @property
  def asked(self) -> tuple[Criterion, ...]:
    """The criteria with a weight."""
    return tuple(c for c in self.criteria if c.weight)

  def score(self, probabilities: Sequence[float]) -> float:
    """Returns the score of a response.

        sum of |weight| P(met) / sum of |weight|, over criteria not hard

    in [0, 1], and 1 less if some hard criterion has P(met) < 1/2. P(met) is
    P(yes), or P(no) if the weight is negative. With hard criteria alone the
    score is 0 or -1. The normalised weighted sum is that of Gunjal et al.,
    arXiv 2507.17746, eq. 1; hard criteria are ours.

    Args:
      probabilities: P(yes) of each criterion of `asked`.
    """
    total = weights = 0.0
    violated = False
    for criterion, p_yes in zip(self.asked, probabilities, strict=True):
      met = p_yes if criterion.weight > 0 else 1.0 - p_yes
      if criterion.hard:
        violated |= met < 0.5
      else:
        total += abs(criterion.weight) * met
        weights += abs(criterion.weight)
    return (total / weights if weights else 0.0) - violated


class Rubrics:
  """Finds the rubric of a context.

  Args:
    rows: rubrics.
    key: maps contexts to the texts by which rubrics are found.

  Raises:
    ValueError: two rows have one context and different criteria.
  """

  def __init__(
    self,
    rows: Iterable[Rubric],
    key: Callable[[Sequence[str]], Sequence[str]] = lambda contexts: contexts,
  ):
    self.rows = tuple(rows)
    own = [row for row in self.rows if row.context]
    names = list(key([row.context for row in own])) + [""] * (
      len(self.rows) - len(own)
    )
    ordered = own + [row for row in self.rows if not row.context]
    self._found: dict[str, Rubric] = {}
    for name, row in zip(names, ordered, strict=True):
      known = self._found.setdefault(name, row)
      if known.criteria != row.criteria:
        raise ValueError(
          f"two rubrics of the context {name!r:.60} differ; keep one of them"
        )

  @property
  def has_default(self) -> bool:
    """Whether contexts without a row have a rubric."""
    return "" in self._found

  def find(self, context: str) -> Rubric | None:
    """Returns the rubric of a context; None if there is none."""
    return self._found.get(context, self._found.get(""))

  def fingerprint(self) -> str:
    """Returns a hash of the rubrics, whatever the order of their rows."""
    rows = sorted(jsonl.dump_row(records.to_row(row)) for row in self.rows)
    return records.content_id(*rows)


def read(path: str) -> Rubrics:
  """Reads a file of rubrics; one that has not changed is parsed once.

  Args:
    path: a .jsonl or .toml file, or the name of a file in `FILES`.

  Raises:
    ValueError: there are none, or a row is no rubric; names file and line.
  """
  place = FILES / f"{path}.toml"
  if not place.is_file():
    place = pathlib.Path(path)
  if not place.is_file():
    known = sorted(file.stem for file in FILES.glob("*_rubric.toml"))
    raise ValueError(
      f"no file of rubrics {path!r}; name a .jsonl or .toml file, or one of "
      f"{known}"
    )
  stat = os.stat(inputs.note(place))
  return _read(place, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=4)
def _read(path: pathlib.Path, _mtime_ns: int, _size: int) -> Rubrics:
  if path.suffix == ".toml":
    with parsing.naming(path):
      row = tomllib.loads(path.read_text(encoding="utf-8"))
      return Rubrics([records.from_row(Rubric, row)])
  rows = jsonl.read_records(Rubric, path)
  if not rows:
    raise ValueError(
      f"{path} has no rubrics; write rows such as "
      '{"context": "", "criteria": [{"text": "Is it one sentence?"}]}'
    )
  return Rubrics(rows)
