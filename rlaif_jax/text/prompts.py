# SPDX-License-Identifier: Apache-2.0
"""Labeler prompts: preamble, exemplars, sample and ending, from data files.

Owns how a question to the labeler is written and cut to a budget; it asks
nobody (`labeling` does) and knows neither JAX nor a particular tokenizer.
A prompt is constants around variable texts (Lee et al., arXiv 2309.00267,
section 2.1):

    preamble | exemplars | glue CONTEXT glue FIRST glue SECOND glue | ending

Departure from the paper: it writes label and text on one line ("Text - ...").
Here a text stands on lines of its own, because every tokenizer of the library
breaks tokens at newlines: each segment can be encoded by itself, on the host
or once for a jitted labeler, and the pieces are exactly the encoding of the
whole prompt. All wording is the project's own.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import pathlib
import re
import tomllib
from typing import TYPE_CHECKING, NamedTuple, Sequence

from rlaif_jax.core import records

if TYPE_CHECKING:
  from rlaif_jax.core import protocols

TEMPLATES = pathlib.Path(__file__).parent / "templates"
_PLACEHOLDERS = {
  "pairwise": ("context", "first", "second"),
  "pointwise": ("context", "response"),
}
_PLACEHOLDER = re.compile(r"\{(?:context|first|second|response)\}")
_SCORES = tuple(str(score) for score in range(1, 11))
_EXAMPLE = "=== Example ===\n"
_YOUR_TURN = "=== Now answer for this one ===\n"


class Segment(NamedTuple):
  """A piece of a prompt.

  Roles: preamble, exemplars, glue, context, candidate, rationale, ending.
  Only context, candidate and rationale vary between rows.
  """

  role: str
  text: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exemplar:
  """A solved sample; `label` is the option that the labeler should say."""

  context: str
  candidates: tuple[str, ...]
  label: str
  rationale: str = ""

  def __post_init__(self):
    object.__setattr__(self, "candidates", tuple(self.candidates))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Template:
  """One way to ask the labeler; every text field is used verbatim.

  `sample` holds {context}, {first}, {second} (pairwise) or {context},
  {response} (pointwise), once each, in this order, each on a line of its own.
  `options` are the answers that are scored right after `ending`; a tokenizer
  that wants a leading space gets it here. `polarity` "flip" says that the
  prompt asks for the worse candidate, so that P(better) is 1 - P(named).
  `cot_ending` asks for a rationale in place of `ending`; "" is none.
  """

  name: str
  kind: str
  preamble: str
  sample: str
  ending: str
  options: tuple[str, ...]
  exemplars: tuple[Exemplar, ...] = ()
  cot_ending: str = ""
  polarity: str = "prefer"

  def __post_init__(self):
    object.__setattr__(self, "options", tuple(self.options))
    object.__setattr__(self, "exemplars", tuple(self.exemplars))
    if self.kind not in _PLACEHOLDERS:
      raise ValueError(
        f"kind is {self.kind!r}; it should be one of {sorted(_PLACEHOLDERS)}"
      )
    if self.polarity not in ("prefer", "flip"):
      raise ValueError(
        f"polarity is {self.polarity!r}; it should be 'prefer' (the answer "
        "names the better candidate) or 'flip' (it names the worse one)"
      )
    _check_options(self)
    _check_texts(self)
    _check_exemplars(self)

  def fingerprint(self) -> str:
    """Content id of all that reaches the labeler; the name does not count."""
    fields = dataclasses.asdict(self)
    del fields["name"]
    return records.content_id(json.dumps(fields, sort_keys=True))

  def pairwise_parts(self, *, cot: bool = False) -> tuple[str, str, str, str]:
    """(before_context, before_first, before_second, after).

    With the texts between them they are the prompt, and each constant begins
    and ends with a newline wherever it touches one of the texts. A template
    of the other kind is a ValueError.
    """
    _check_kind(self, "pairwise")
    return _constants(self, cot)

  def pointwise_parts(self, *, cot: bool = False) -> tuple[str, str, str]:
    """(before_context, between, after); see `pairwise_parts`."""
    _check_kind(self, "pointwise")
    return _constants(self, cot)


def _check_kind(template: Template, kind: str) -> None:
  if template.kind != kind:
    raise ValueError(
      f"template {template.name!r} is {template.kind}, but a {kind} one is "
      f"needed here; choose one whose file says kind = '{kind}'"
    )


def _check_options(template: Template) -> None:
  options = template.options
  if len(set(options)) != len(options) or not all(options):
    raise ValueError(f"options are {options}; they should differ, none empty")
  if template.kind == "pairwise" and len(options) != 2:
    raise ValueError(
      f"options are {options}; a pairwise template has two, in shown order"
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
  before, *glue = _glue(template)
  inner = all(text[:1] == "\n" == text[-1:] for text in glue)
  if not inner or (before and not before.endswith("\n")):
    raise ValueError(
      "each placeholder of sample should stand on a line of its own, so that "
      "segments can be tokenized one by one"
    )


def _check_exemplars(template: Template) -> None:
  wanted = len(_PLACEHOLDERS[template.kind]) - 1
  for number, exemplar in enumerate(template.exemplars, start=1):
    if len(exemplar.candidates) != wanted:
      raise ValueError(
        f"exemplar {number} has {len(exemplar.candidates)} candidates; a "
        f"{template.kind} template has {wanted}"
      )
    if exemplar.label not in template.options:
      raise ValueError(
        f"exemplar {number} has the label {exemplar.label!r}; it should be "
        f"one of {template.options}"
      )
    if template.cot_ending and not exemplar.rationale:
      raise ValueError(
        f"exemplar {number} has no rationale, but the template has a "
        "cot_ending; write one, or leave cot_ending out"
      )


def names() -> list[str]:
  """The templates that come with the library."""
  return sorted(path.stem for path in TEMPLATES.glob("*.toml"))


def load(name: str | os.PathLike) -> Template:
  """Loads a template by name, or from a .toml file with the same fields.

  Args:
    name: one of `names()`, or a path that ends in .toml.

  Raises:
    ValueError: no such template; or a field is unknown, missing or wrong
      (the message names the file).
  """
  path = pathlib.Path(name)
  if path.suffix != ".toml":
    path = TEMPLATES / f"{name}.toml"
  if not path.is_file():
    near = difflib.get_close_matches(str(name), names(), n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(
      f"no template {str(name)!r}.{hint} There are {names()}; a file of your "
      "own is named by a path that ends in .toml"
    )
  try:
    row = tomllib.loads(path.read_text(encoding="utf-8"))
    row["exemplars"] = tuple(
      records.from_row(Exemplar, item) for item in row.get("exemplars", ())
    )
    return records.from_row(Template, row)
  except (ValueError, TypeError, AttributeError) as error:
    raise ValueError(f"template {path}: {error}") from error


def _glue(template: Template) -> list[str]:
  return _PLACEHOLDER.split(template.sample)


def _body(template: Template, texts: Sequence[str]) -> list[Segment]:
  """The sample: glue and texts by turns, empty glue left out."""
  glue = _glue(template)
  roles = ["context"] + ["candidate"] * (len(texts) - 1)
  result = [Segment("glue", glue[0])] if glue[0] else []
  for role, text, after in zip(roles, texts, glue[1:], strict=True):
    result += [Segment(role, text), Segment("glue", after)]
  return result


def _exemplars(template: Template, cot: bool) -> str:
  """All exemplars with their answers; "" without any."""
  parts = []
  for exemplar in template.exemplars:
    body = _body(template, (exemplar.context, *exemplar.candidates))
    parts += [_EXAMPLE] + [segment.text for segment in body]
    if cot:
      parts += [template.cot_ending, exemplar.rationale.strip(), "\n"]
    parts += [template.ending, exemplar.label, "\n\n"]
  return "".join(parts + [_YOUR_TURN]) if parts else ""


def _constants(template: Template, cot: bool) -> tuple[str, ...]:
  """The texts around the variable ones."""
  blanks = ("",) * (len(_PLACEHOLDERS[template.kind]) - 1)
  result = [""]
  for role, text in segments(template, "", blanks, cot=cot):
    if role in ("context", "candidate"):
      result.append("")
    else:
      result[-1] += text
  return tuple(result)


def segments(
  template: Template,
  context: str,
  candidates: Sequence[str],
  *,
  cot: bool = False,
  rationale: str | None = None,
) -> list[Segment]:
  """The prompt in pieces; joined they are the prompt, encoded too.

  Args:
    template: how to ask.
    context: what the candidates answer.
    candidates: as shown to the labeler: two, or one if pointwise.
    cot: ends with the request for a rationale (step 1 of section 2.1.2).
    rationale: ends with the request for a rationale, this rationale and the
      standard ending (step 2).

  Raises:
    ValueError: a wrong number of candidates, or no `cot_ending`.
  """
  wanted = len(_PLACEHOLDERS[template.kind]) - 1
  if len(candidates) != wanted:
    raise ValueError(
      f"template {template.name!r} is {template.kind} and shows {wanted} "
      f"candidates, not {len(candidates)}"
    )
  explain = cot or rationale is not None
  if explain and not template.cot_ending:
    raise ValueError(
      f"template {template.name!r} has no cot_ending, so it cannot ask for a "
      "rationale; turn chain of thought off or choose another template"
    )
  result = [Segment("preamble", template.preamble)]
  if template.exemplars:
    result.append(Segment("exemplars", _exemplars(template, explain)))
  result += _body(template, (context, *candidates))
  if explain:
    result.append(Segment("ending", template.cot_ending))
  if rationale is not None:
    result.append(Segment("rationale", rationale))
    result.append(Segment("ending", "\n" + template.ending))
  elif not cot:
    result.append(Segment("ending", template.ending))
  return result


def render_pairwise(
  template: Template,
  context: str,
  first: str,
  second: str,
  *,
  swap: bool = False,
  cot: bool = False,
  rationale: str | None = None,
) -> str:
  """The prompt for a pair; `swap` shows `second` first. See `segments`."""
  _check_kind(template, "pairwise")
  shown = (second, first) if swap else (first, second)
  pieces = segments(template, context, shown, cot=cot, rationale=rationale)
  return "".join(piece.text for piece in pieces)


def render_pointwise(template: Template, context: str, response: str) -> str:
  """The prompt for one response; see `segments`."""
  _check_kind(template, "pointwise")
  pieces = segments(template, context, (response,))
  return "".join(piece.text for piece in pieces)


class Fitted(NamedTuple):
  """A context that fits: its text, the prompt's tokens and those cut off."""

  context: str
  tokens: int
  cut_tokens: int


def fit(
  template: Template,
  context: str,
  candidates: Sequence[str],
  *,
  tokenizer: protocols.Tokenizer,
  max_tokens: int,
  cot: bool = False,
) -> Fitted:
  """Cuts the end of the context, and nothing else, to a token budget.

  The paper does not say what it does with a context that is too long. The
  result is a prefix of the context, the same for both orders of a pair. A
  beginning-of-sequence token counts; the option that is scored does not.

  Raises:
    ValueError: the prompt is too long even with an empty context.
  """
  pieces = segments(template, context, candidates, cot=cot)
  fixed = sum(
    len(tokenizer.encode(piece.text))
    for piece in pieces
    if piece.role != "context"
  )
  fixed += tokenizer.bos_id is not None
  room = max_tokens - fixed
  if room < 0:
    raise ValueError(
      f"template {template.name!r}: the prompt has {fixed} tokens without any "
      f"context, but the limit is {max_tokens}; raise the limit or choose a "
      "shorter template"
    )
  whole = len(tokenizer.encode(context))
  if whole <= room:
    return Fitted(context, fixed + whole, 0)
  shortest, longest = 0, len(context)  # in characters: fits, does not fit
  while longest - shortest > 1:
    middle = (shortest + longest) // 2
    if len(tokenizer.encode(context[:middle])) <= room:
      shortest = middle
    else:
      longest = middle
  kept = len(tokenizer.encode(context[:shortest]))
  return Fitted(context[:shortest], fixed + kept, whole - kept)


def strip_trailing_symbols(text: str) -> str:
  """Drops superfluous symbols at the end of a response.

  The paper strips trailing periods and spaces that RL policies append
  (appendix E) and does not print the set. Here it is white space and the full
  stop: the whole run of them at the end becomes one full stop if it holds
  any, else nothing. Other punctuation stays.
  """
  head = text.rstrip(" \t\r\n.")
  return head + "." if "." in text[len(head) :] else head
