# SPDX-License-Identifier: Apache-2.0
"""Builds labeler prompts from templates, and fits them to a token budget.

The fields of a template are in `text.template_files`. A prompt is constant text
around variable texts (Lee et al., arXiv 2309.00267, section 2.1):

    preamble | exemplars | glue CONTEXT glue FIRST glue SECOND glue | ending

The paper writes label and text on one line ("Text - ..."). Here each text is on
lines of its own, because tokenizers split at newlines: the segments can be
encoded separately, and their ids are those of the whole prompt. The wording is
the project's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable, NamedTuple, Sequence

from rlaif_jax.text import long_texts
from rlaif_jax.text import template_files

if TYPE_CHECKING:
  from rlaif_jax.core import protocols

Exemplar = template_files.Exemplar
Template = template_files.Template
load = template_files.load
names = template_files.names

# Number of interpolation steps before the search continues by bisection.
_GUESSES = 16


class Segment(NamedTuple):
  """A part of a prompt.

  The role is preamble, exemplars, glue, context, candidate, rationale or
  ending. Context, candidates and rationale vary between rows.
  """

  role: str
  text: str


def segments(
  template: Template,
  context: str,
  candidates: Sequence[str],
  *,
  cot: bool = False,
  rationale: str | None = None,
) -> list[Segment]:
  """Returns the segments of a prompt, in order.

  Args:
    template: the template.
    context: the context of the candidates.
    candidates: the responses in the order shown: two if pairwise, else one;
      a criterion or principle follows them, if the template has one.
    cot: ends with the request for a rationale (step 1 of section 2.1.2).
    rationale: ends with the request, this rationale and the standard ending
      (step 2).

  Raises:
    ValueError: if the number of candidates is wrong, or a rationale is asked
      for and the template has no `cot_ending`.
  """
  if len(candidates) != template.num_candidates:
    raise ValueError(
      f"template {template.name!r} is {template.kind} and shows "
      f"{template.num_candidates} candidates, not {len(candidates)}"
    )
  explain = cot or rationale is not None
  asking = template.asking(cot=explain)
  result = [Segment("preamble", template.preamble)]
  if template.exemplars:
    text = template.exemplars_text(cot=explain)
    result.append(Segment("exemplars", text))
  before, *glue = template.glue
  if before:
    result.append(Segment("glue", before))
  roles = ["context"] + ["candidate"] * len(candidates)
  for role, text, after in zip(
    roles, (context, *candidates), glue, strict=True
  ):
    result += [Segment(role, text), Segment("glue", after)]
  result.append(Segment("ending", asking))
  if rationale is not None:
    result.append(Segment("rationale", rationale))
    result.append(Segment("ending", "\n" + template.ending))
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
  """Returns the prompt of a pair; `swap` shows `second` first."""
  template.check_kind("pairwise")
  shown = (second, first) if swap else (first, second)
  pieces = segments(template, context, shown, cot=cot, rationale=rationale)
  return _joined(pieces)


def render_pointwise(template: Template, context: str, response: str) -> str:
  """Returns the prompt for a score of one response."""
  template.check_kind("pointwise")
  return _joined(segments(template, context, (response,)))


def render_yesno(template: Template, context: str, response: str) -> str:
  """Returns the prompt for yes or no about one response."""
  template.check_kind("yesno")
  return _joined(segments(template, context, (response,)))


def render_rubric(
  template: Template, context: str, response: str, criterion: str
) -> str:
  """Returns the prompt for yes or no about one criterion of a response."""
  template.check_kind("rubric")
  return _joined(segments(template, context, (response, criterion)))


def render_principle(
  template: Template, context: str, first: str, second: str, principle: str
) -> str:
  """Returns the prompt that compares two responses by one principle."""
  template.check_kind("principle")
  return _joined(segments(template, context, (first, second, principle)))


def _joined(pieces: Sequence[Segment]) -> str:
  return "".join(piece.text for piece in pieces)


class Fitted(NamedTuple):
  """A context that fits a token budget.

  Attributes:
    context: the context, or its beginning or end.
    tokens: tokens of the whole prompt.
    cut_tokens: tokens that were cut from the context.
  """

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
  """Truncates the context to the token budget of the prompt.

  The paper does not specify the truncation. The result is the same for both
  orders of a pair. A beginning-of-sequence token counts; the scored option does
  not.

  Raises:
    ValueError: if the prompt is too long even with an empty context.
  """
  pieces = segments(template, context, candidates, cot=cot)
  fixed = sum(
    long_texts.count_ids(tokenizer.encode, piece.text)
    for piece in pieces
    if piece.role != "context"
  )
  fixed += tokenizer.bos_id is not None
  budget = max_tokens - fixed
  if budget < 0:
    raise ValueError(
      f"template {template.name!r}: the prompt has {fixed} tokens without any "
      f"context, but the limit is {max_tokens}; raise the limit or choose a "
      "shorter template"
    )
  piece, ids = long_texts.part(
    tokenizer.encode, context, budget, template.truncate
  )
  is_whole = len(piece) == len(context)
  if is_whole and len(ids) <= budget:
    return Fitted(context, fixed + len(ids), 0)

  def part(size: int) -> str:
    if template.truncate == "end":
      return piece[:size]
    return piece[len(piece) - size :]

  length, kept = _longest_part(
    lambda size: len(tokenizer.encode(part(size))),
    size=len(piece),
    tokens=len(ids),
    budget=budget,
  )
  whole = len(ids)
  if not is_whole:
    whole = long_texts.count_ids(tokenizer.encode, context)
  return Fitted(part(length), fixed + kept, whole - kept)


def _longest_part(
  count: Callable[[int], int], *, size: int, tokens: int, budget: int
) -> tuple[int, int]:
  """Returns (characters, tokens) of the longest part within a budget.

  Uses the Illinois variant of the false position method. Tokens are spread
  nearly evenly over a text, so interpolation needs fewer and shorter encodings
  than bisection.

  Args:
    count: number of characters -> tokens of that part of the text.
    size: number of characters of the text, which exceeds the budget.
    tokens: tokens of the text.
    budget: maximum number of tokens; at least 0.
  """
  low, fits, high = 0, 0, size
  below, above = budget + 0.5, tokens - budget - 0.5  # distances
  moved, guesses = "", 0
  while high - low > 1:
    step = (high - low) / 2
    if guesses < _GUESSES:
      step = (high - low) * below / (below + above)
    guess = min(max(low + round(step), low + 1), high - 1)
    found, guesses = count(guess), guesses + 1
    if found <= budget:
      above = above / 2 if moved == "low" else above
      low, fits, below, moved = guess, found, budget + 0.5 - found, "low"
    else:
      below = below / 2 if moved == "high" else below
      high, above, moved = guess, found - budget - 0.5, "high"
  return low, fits


def strip_trailing_symbols(text: str) -> str:
  """Removes superfluous symbols at the end of a response.

  The paper strips trailing periods and spaces that RL policies append (appendix
  E) and does not give the set. Here a trailing run of white space and full
  stops becomes one full stop if it contains any, else nothing.
  """
  head = text.rstrip(" \t\r\n.")
  return head + "." if "." in text[len(head) :] else head
