# SPDX-License-Identifier: Apache-2.0
"""Labeler prompts: preamble, exemplars, sample and ending, from data files.

Owns how the texts of a row are put into a template and cut to a budget; it
asks nobody (`labeling` does) and knows neither JAX nor a particular tokenizer.
What a template holds is `text.template_files`. A prompt is constants around
variable texts (Lee et al., arXiv 2309.00267, section 2.1):

    preamble | exemplars | glue CONTEXT glue FIRST glue SECOND glue | ending

Departure from the paper: it writes label and text on one line ("Text - ...").
Here a text stands on lines of its own, because every tokenizer of the library
breaks tokens at newlines: each segment can be encoded by itself, on the host
or once for a jitted labeler, and the pieces are exactly the encoding of the
whole prompt. All wording is the project's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable, NamedTuple, Sequence

from rlaif_jax.text import template_files

if TYPE_CHECKING:
  from rlaif_jax.core import protocols

Exemplar = template_files.Exemplar
Template = template_files.Template
load = template_files.load
names = template_files.names

# Guesses of a length by proportion, before the search goes on by halves.
_GUESSES = 16


class Segment(NamedTuple):
  """A piece of a prompt.

  Roles: preamble, exemplars, glue, context, candidate, rationale, ending.
  Only context, candidate and rationale vary between rows.
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
  """The prompt in pieces; joined they are the prompt, encoded too.

  Args:
    template: how to ask.
    context: what the candidates answer.
    candidates: as shown to the labeler: two if pairwise, else one.
    cot: ends with the request for a rationale (step 1 of section 2.1.2).
    rationale: ends with the request for a rationale, this rationale and the
      standard ending (step 2).

  Raises:
    ValueError: a wrong number of candidates, or no `cot_ending`.
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
  """The prompt for a pair; `swap` shows `second` first. See `segments`."""
  template.check_kind("pairwise")
  shown = (second, first) if swap else (first, second)
  pieces = segments(template, context, shown, cot=cot, rationale=rationale)
  return _joined(pieces)


def render_pointwise(template: Template, context: str, response: str) -> str:
  """The prompt for a score of one response; see `segments`."""
  template.check_kind("pointwise")
  return _joined(segments(template, context, (response,)))


def render_yesno(template: Template, context: str, response: str) -> str:
  """The prompt for yes or no about one response; see `segments`."""
  template.check_kind("yesno")
  return _joined(segments(template, context, (response,)))


def _joined(pieces: Sequence[Segment]) -> str:
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
  length, kept = _longest_prefix(
    lambda size: len(tokenizer.encode(context[:size])),
    size=len(context),
    tokens=whole,
    room=room,
  )
  return Fitted(context[:length], fixed + kept, whole - kept)


def _longest_prefix(
  count: Callable[[int], int], *, size: int, tokens: int, room: int
) -> tuple[int, int]:
  """(characters, tokens) of the longest prefix of at most `room` tokens.

  Tokens are spread nearly evenly over a text, so a length guessed by
  proportion is nearly right: few prefixes are encoded, and all but the first
  few are little longer than the result. A side that stands still while the
  other moves counts half (the "Illinois" rule of false position), so that
  guesses do not creep towards the answer from one side.

  Args:
    count: tokens of a prefix, given its characters.
    size: characters of the whole text, which is too long.
    tokens: of the whole text.
    room: tokens that there may be; at least 0.
  """
  low, fits, high = 0, 0, size
  below, above = room + 0.5, tokens - room - 0.5  # distances from the answer
  moved, guesses = "", 0
  while high - low > 1:
    step = (high - low) / 2
    if guesses < _GUESSES:
      step = (high - low) * below / (below + above)
    guess = min(max(low + round(step), low + 1), high - 1)
    found, guesses = count(guess), guesses + 1
    if found <= room:
      above = above / 2 if moved == "low" else above
      low, fits, below, moved = guess, found, room + 0.5 - found, "low"
    else:
      below = below / 2 if moved == "high" else below
      high, above, moved = guess, found - room - 0.5, "high"
  return low, fits


def strip_trailing_symbols(text: str) -> str:
  """Drops superfluous symbols at the end of a response.

  The paper strips trailing periods and spaces that RL policies append
  (appendix E) and does not print the set. Here it is white space and the full
  stop: the whole run of them at the end becomes one full stop if it holds
  any, else nothing. Other punctuation stays.
  """
  head = text.rstrip(" \t\r\n.")
  return head + "." if "." in text[len(head) :] else head
