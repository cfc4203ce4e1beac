# SPDX-License-Identifier: Apache-2.0
"""Loads and checks judge templates and pools of exemplars from .toml files.

`text.prompts` builds prompts from them. See docs/guides/prompts.md.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import pathlib
import re
import tomllib
from typing import Literal

from rlaif_jax.core import inputs
from rlaif_jax.core import parsing
from rlaif_jax.core import records
from rlaif_jax.core import validation

TEMPLATES = pathlib.Path(__file__).parent / "templates"
_POOL = "_exemplars"  # suffix of the names of pools
_PLACEHOLDERS = {
  "pairwise": ("context", "first", "second"),
  "pointwise": ("context", "response"),
  "yesno": ("context", "response"),
  # The criterion, or principle, comes last, so that the questions about a
  # response or pair share a prefix.
  "rubric": ("context", "response", "criterion"),
  "principle": ("context", "first", "second", "criterion"),
}
_PLACEHOLDER = re.compile(r"\{(?:context|first|second|response|criterion)\}")
_SCORES = tuple(str(score) for score in range(1, 11))
# Whether the prompt asks for the better candidate or for the worse one.
Polarity = Literal["prefer", "flip"]
_EXAMPLE = "=== Example ===\n"
_YOUR_TURN = "=== Now answer for this one ===\n"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exemplar:
  """A solved sample; `label` is the expected option."""

  context: str
  candidates: tuple[str, ...]
  label: str
  rationale: str = ""

  def __post_init__(self):
    object.__setattr__(self, "candidates", tuple(self.candidates))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pool(validation.Validated):
  """Exemplars to choose from.

  The labels are for templates of `polarity`. A template of the other polarity
  gets the other option.
  """

  polarity: Polarity
  exemplars: tuple[Exemplar, ...]

  def __post_init__(self):
    super().__post_init__()
    object.__setattr__(self, "exemplars", tuple(self.exemplars))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Template(validation.Validated):
  """A prompt template of a judge; every text is used verbatim.

  Attributes:
    name: name of the template.
    kind: "pairwise", "pointwise", "yesno", "rubric" or "principle".
    preamble: text before the exemplars.
    sample: text with {context}, {first}, {second} (pairwise, principle) or
      {context}, {response} (pointwise, yesno, rubric) and {criterion} (rubric,
      principle), in this order, each on a line of its own.
    ending: text right before the option.
    options: options that are scored, including a leading space if the tokenizer
      needs one.
    exemplars: exemplars that are shown.
    exemplars_file: pool from which `load` takes other exemplars.
    cot_ending: request for a rationale, in place of `ending`; "": none.
    truncate: the part of a long context that is dropped: the "end" of a
      document, the "start" of a dialogue.
    polarity: "prefer"; or "flip" if the prompt asks for the worse candidate, or
      whether the response is bad.
  """

  name: str
  kind: Literal["pairwise", "pointwise", "yesno", "rubric", "principle"]
  preamble: str
  sample: str
  ending: str
  options: tuple[str, ...]
  exemplars: tuple[Exemplar, ...] = ()
  exemplars_file: str = ""
  cot_ending: str = ""
  truncate: Literal["start", "end"] = "end"
  polarity: Polarity = "prefer"

  def __post_init__(self):
    super().__post_init__()
    object.__setattr__(self, "options", tuple(self.options))
    object.__setattr__(self, "exemplars", tuple(self.exemplars))
    if self.polarity == "flip" and self.kind not in ("pairwise", "yesno"):
      raise ValueError(
        f"polarity is 'flip', but a {self.kind} template has none; leave it "
        "out: 10 is the best score, and a criterion that speaks against a "
        "response has a negative weight"
      )
    _check_options(self)
    _check_texts(self)
    for number, exemplar in enumerate(self.exemplars, start=1):
      _check_exemplar(exemplar, self, number)

  @property
  def num_candidates(self) -> int:
    """Number of texts after the context: responses and a criterion."""
    return len(_PLACEHOLDERS[self.kind]) - 1

  @property
  def glue(self) -> list[str]:
    """The constant texts of `sample` around the variable ones."""
    return _PLACEHOLDER.split(self.sample)

  def fingerprint(self) -> str:
    """Returns a hash of everything but the names of template and pool."""
    fields = dataclasses.asdict(self)
    del fields["name"], fields["exemplars_file"]
    return records.content_id(json.dumps(fields, sort_keys=True))

  def asking(self, *, cot: bool) -> str:
    """Returns `ending`, or with `cot` the request for a rationale.

    Raises:
      ValueError: if `cot` is set and there is no `cot_ending`.
    """
    if cot and not self.cot_ending:
      raise ValueError(
        f"template {self.name!r} has no cot_ending, so it cannot ask for a "
        "rationale; turn chain of thought off or choose another template"
      )
    return self.cot_ending if cot else self.ending

  def exemplars_text(self, *, cot: bool) -> str:
    """Returns the text of all exemplars with their answers."""
    parts = []
    for exemplar in self.exemplars:
      before, *glue = self.glue
      parts += [_EXAMPLE, before]
      for text, after in zip((exemplar.context, *exemplar.candidates), glue):
        parts += [text, after]
      if cot:
        parts += [self.asking(cot=True), exemplar.rationale.strip(), "\n"]
      parts += [self.ending, exemplar.label, "\n\n"]
    return "".join(parts + [_YOUR_TURN]) if parts else ""

  def pairwise_parts(self, *, cot: bool = False) -> tuple[str, str, str, str]:
    """Returns (before_context, before_first, before_second, after).

    The constant texts of a prompt. Each begins and ends with a newline where it
    adjoins a variable text.

    Raises:
      ValueError: if the template is of another kind.
    """
    return self._parts("pairwise", cot)

  def pointwise_parts(self, *, cot: bool = False) -> tuple[str, str, str]:
    """Returns (before_context, between, after); see `pairwise_parts`."""
    return self._parts("pointwise", cot)

  def yesno_parts(self, *, cot: bool = False) -> tuple[str, str, str]:
    """Returns (before_context, between, after); see `pairwise_parts`."""
    return self._parts("yesno", cot)

  def check_kind(self, kind: str) -> None:
    """Raises ValueError if the template is of another kind."""
    if self.kind != kind:
      raise ValueError(
        f"template {self.name!r} is {self.kind}, but a {kind} one is needed "
        f"here; choose one whose file says kind = '{kind}'"
      )

  def _parts(self, kind: str, cot: bool) -> tuple[str, ...]:
    self.check_kind(kind)
    before, *between, after = self.glue
    before = self.preamble + self.exemplars_text(cot=cot) + before
    return (before, *between, after + self.asking(cot=cot))


def _check_options(template: Template) -> None:
  options = template.options
  if len(set(options)) != len(options) or not all(options):
    raise ValueError(f"options are {options}; they should differ, none empty")
  if template.kind in ("pairwise", "principle") and len(options) != 2:
    raise ValueError(
      f"options are {options}; a {template.kind} template has two, in shown "
      "order"
    )
  if template.kind in ("yesno", "rubric") and len(options) != 2:
    raise ValueError(
      f"options are {options}; a {template.kind} template has two, first the "
      "one that says yes"
    )
  scores = tuple(option.strip() for option in options)
  if template.kind == "pointwise" and scores != _SCORES:
    raise ValueError(f"options are {options}; a pointwise template has 1 to 10")


def _check_texts(template: Template) -> None:
  for field in ("preamble", "sample", "cot_ending"):
    text = getattr(template, field)
    if not text.endswith("\n") and (text or field != "cot_ending"):
      raise ValueError(f"{field} should end with a newline")
  if not template.ending.strip():
    raise ValueError("ending is empty; it should ask for one of the options")
  names = _PLACEHOLDERS[template.kind]
  found = tuple(_PLACEHOLDER.findall(template.sample))
  if found != tuple("{" + name + "}" for name in names):
    raise ValueError(
      f"sample has the placeholders {found}; a {template.kind} template has "
      f"{names}, once each and in this order"
    )
  before, *glue = template.glue
  inner = all(text[:1] == "\n" == text[-1:] for text in glue)
  if not inner or (before and not before.endswith("\n")):
    raise ValueError(
      "each placeholder of sample should stand on a line of its own, so that "
      "segments can be tokenized one by one"
    )


def _check_exemplar(exemplar: Exemplar, template: Template, number: int):
  if len(exemplar.candidates) != template.num_candidates:
    raise ValueError(
      f"exemplar {number} has {len(exemplar.candidates)} candidates; a "
      f"{template.kind} template has {template.num_candidates}"
    )
  if exemplar.label not in template.options:
    raise ValueError(
      f"exemplar {number} has the label {exemplar.label!r}; it should be "
      f"one of {template.options}"
    )
  if template.cot_ending and not exemplar.rationale.strip():
    raise ValueError(
      f"exemplar {number} has no rationale, but the template has a "
      "cot_ending; write one, or leave cot_ending out"
    )


def names() -> list[str]:
  """Returns the names of the templates of the library."""
  stems = (path.stem for path in TEMPLATES.glob("*.toml"))
  return sorted(stem for stem in stems if not stem.endswith(_POOL))


def load(
  name: str | os.PathLike,
  *,
  num_exemplars: int | None = None,
  exemplar_seed: int | None = None,
) -> Template:
  """Loads a template by name, or from a .toml file with the same fields.

  Exemplars are chosen from the pool `exemplars_file`, or from those of the
  template itself. The paper chooses them by hand (section 2.1 of arXiv
  2309.00267) and, for ten trials with one exemplar, at random.

  Args:
    name: one of `names()`, or a path that ends in .toml.
    num_exemplars: number of exemplars; None: those of the template itself.
    exemplar_seed: orders the pool by a hash of seed and text, of which the
      first exemplars are taken; None: the order of the file.

  Raises:
    ValueError: if there is no such template, a field is unknown, missing or
      invalid, or the pool has too few exemplars; names the file.
  """
  path = _locate(name)
  try:
    template = records.from_row(Template, _read(path))
    if num_exemplars is None:
      if exemplar_seed is not None:
        raise ValueError(
          f"exemplar_seed is {exemplar_seed}, but num_exemplars is None; say "
          "how many exemplars to draw, or leave the seed out"
        )
      return template
    if num_exemplars < 0:
      raise ValueError(f"num_exemplars is {num_exemplars}; it is 0 or more")
    chosen = ()
    if num_exemplars > 0:
      pool, where = _exemplars(template, path)
      if num_exemplars > len(pool):
        raise ValueError(
          f"num_exemplars is {num_exemplars}, but {where} has {len(pool)} "
          "exemplars; ask for fewer or write more"
        )
      if exemplar_seed is not None:
        pool = sorted(pool, key=lambda e: _draw(e, exemplar_seed))
      chosen = tuple(pool[:num_exemplars])
    return dataclasses.replace(template, exemplars=chosen)
  except parsing.ERRORS as error:
    raise ValueError(f"template {path}: {parsing.reason(error)}") from error


def _locate(name: str | os.PathLike) -> pathlib.Path:
  path = pathlib.Path(name)
  known = names()
  if path.suffix != ".toml" and str(name) in known:
    return TEMPLATES / f"{name}.toml"
  if path.suffix == ".toml" and path.is_file():
    return path
  near = difflib.get_close_matches(str(name), known, n=1)
  hint = f" Did you mean {near[0]!r}?" if near else ""
  raise ValueError(
    f"no template {str(name)!r}.{hint} There are {known}; a file of your "
    "own is named by a path that ends in .toml"
  )


def _read(path: pathlib.Path) -> dict[str, object]:
  """Reads the keys of a file, with its exemplars as records."""
  row = tomllib.loads(inputs.note(path).read_text(encoding="utf-8"))
  exemplars = []
  for number, item in enumerate(row.get("exemplars", ()), start=1):
    try:
      exemplars.append(records.from_row(Exemplar, item))
    except parsing.ERRORS as error:
      reason = parsing.reason(error)
      raise ValueError(f"exemplar {number}: {reason}") from error
  return {**row, "exemplars": exemplars}


def _draw(exemplar: Exemplar, seed: int) -> str:
  return records.content_id(str(seed), exemplar.context, *exemplar.candidates)


def _exemplars(
  template: Template, path: pathlib.Path
) -> tuple[tuple[Exemplar, ...], str]:
  """Returns the exemplars to choose from, and their place for messages."""
  if not template.exemplars_file:
    return template.exemplars, "the template (it names no exemplars_file)"
  name = pathlib.Path(template.exemplars_file)
  places = [path.parent / name]
  if name.suffix != ".toml":
    places = [folder / f"{name}.toml" for folder in (path.parent, TEMPLATES)]
  place = next((place for place in places if place.is_file()), None)
  if place is None:
    raise ValueError(
      f"exemplars_file is {str(name)!r}, but there is no file at "
      f"{' or '.join(map(str, places))}"
    )
  try:
    pool = records.from_row(Pool, _read(place))
    for number, exemplar in enumerate(pool.exemplars, start=1):
      _check_exemplar(exemplar, template, number)
    if pool.polarity == template.polarity:
      return pool.exemplars, str(place)
    return _flipped(pool.exemplars, template), str(place)
  except parsing.ERRORS as error:
    raise ValueError(f"exemplars {place}: {parsing.reason(error)}") from error


def _flipped(
  exemplars: tuple[Exemplar, ...], template: Template
) -> tuple[Exemplar, ...]:
  """Returns the exemplars with the other label."""
  if len(template.options) != 2:
    raise ValueError("polarity is 'flip', but scores have none; say 'prefer'")
  other = dict(zip(template.options, reversed(template.options)))
  return tuple(
    dataclasses.replace(exemplar, label=other[exemplar.label])
    for exemplar in exemplars
  )
