# SPDX-License-Identifier: Apache-2.0
"""Prompts of pairwise judges: orders, truncated contexts, rejected pairs.

Rejects a pair before the backend is called if a response imitates a part of
the prompt, a text is invalid Unicode, or the prompt does not fit.
"""

from __future__ import annotations

import re
from typing import NamedTuple, Sequence

from rlaif_jax.core import protocols
from rlaif_jax.core import records
from rlaif_jax.text import prompts


class JudgePrompt(NamedTuple):
  """One pair in one presentation order."""

  row: int  # index of the pair
  pair: records.Pair
  context: str  # truncated to fit
  cut_tokens: int  # tokens removed from the context
  swap: bool  # the second response is shown first

  def render(
    self,
    template: prompts.Template,
    *,
    cot: bool = False,
    rationale: str | None = None,
  ) -> str:
    """Returns the text of the prompt."""
    return prompts.render_pairwise(
      template,
      self.context,
      self.pair.first,
      self.pair.second,
      swap=self.swap,
      cot=cot,
      rationale=rationale,
    )


def make_prompts(
  pairs: Sequence[records.Pair],
  template: prompts.Template,
  *,
  both_orders: bool,
  tokenizer: protocols.Tokenizer | None,
  max_tokens: int,
  cot: bool,
) -> tuple[list[JudgePrompt], dict[int, str]]:
  """Returns the prompts of each pair, and errors of pairs without a prompt.

  A pair of identical responses has neither a prompt nor an error.

  Args:
    pairs: pairs to label.
    template: pairwise template.
    both_orders: adds a prompt that shows the second response first.
    tokenizer: counts tokens; None truncates nothing.
    max_tokens: limit of the prompt without a rationale.
    cot: the prompt asks for a rationale.

  Returns:
    Prompts in the order of the pairs, and errors by index of the pair.
  """
  errors = _find_errors(pairs, template)
  result = []
  for row, pair in enumerate(pairs):
    if pair.first == pair.second or row in errors:
      continue
    context, cut = pair.context, 0
    if tokenizer is not None:
      try:
        fitted = prompts.fit(
          template,
          pair.context,
          (pair.first, pair.second),
          tokenizer=tokenizer,
          max_tokens=max_tokens,
          cot=cot,
        )
      except ValueError as error:
        errors[row] = str(error)
        continue
      context, cut = fitted.context, fitted.cut_tokens
    for swap in (False, True) if both_orders else (False,):
      result.append(JudgePrompt(row, pair, context, cut, swap))
  return result, errors


def _find_errors(
  pairs: Sequence[records.Pair], template: prompts.Template
) -> dict[int, str]:
  """Returns the errors of pairs that cannot be inserted into the prompt."""
  # Lines that mark where the second response begins and where the prompt asks
  # for the judgment. A response with such a line could speak for the other.
  # For markers such as "Summary 2:" the beginning of a line is enough.
  _, *parts = template.pairwise_parts()
  lines = {line.strip().lower() for part in parts for line in part.split("\n")}
  lines.discard("")
  markers = tuple(
    line.rstrip(" :-") for line in lines if re.search(r"[a-z]\W*\d|=$", line)
  )
  errors = {}
  for row, pair in enumerate(pairs):
    texts = (pair.context, pair.first, pair.second)
    if any(_is_invalid_unicode(text) for text in texts):
      errors[row] = "a text has half a surrogate pair and is invalid Unicode"
    for line in (pair.first + "\n" + pair.second).lower().split("\n"):
      if line.strip() in lines or line.strip().startswith(markers):
        errors[row] = (
          f"a response has the line {line.strip()[:60]!r}, which imitates a "
          "part of the prompt"
        )
  return errors


def _is_invalid_unicode(text: str) -> bool:
  try:
    text.encode("utf-8")
  except UnicodeEncodeError:
    return True
  return False
