# SPDX-License-Identifier: Apache-2.0
"""What is asked about pairs: orders, contexts cut to fit, and what cannot be.

A candidate that poses as a part of the prompt, a text that is no Unicode, a
prompt that does not fit: each is a reason, given before anything is paid.
"""

from __future__ import annotations

import re
from typing import NamedTuple, Sequence

from rlaif_jax.core import protocols
from rlaif_jax.core import records
from rlaif_jax.text import prompts


class Question(NamedTuple):
  """One pair in one presentation order."""

  row: int  # of the pair
  pair: records.Pair
  context: str  # cut to fit
  cut_tokens: int  # of the context
  swap: bool  # the second candidate is shown first

  def prompt(
    self,
    template: prompts.Template,
    *,
    cot: bool = False,
    rationale: str | None = None,
  ) -> str:
    return prompts.render_pairwise(
      template,
      self.context,
      self.pair.first,
      self.pair.second,
      swap=self.swap,
      cot=cot,
      rationale=rationale,
    )


def make_questions(
  pairs: Sequence[records.Pair],
  template: prompts.Template,
  *,
  both_orders: bool,
  tokenizer: protocols.Tokenizer | None,
  max_tokens: int,
  cot: bool,
) -> tuple[list[Question], dict[int, str]]:
  """Each pair in each order, and why some pairs are not asked.

  A pair of identical candidates has no question and no reason.

  Args:
    pairs: what to label.
    template: how to ask.
    both_orders: also with the second candidate shown first.
    tokenizer: counts; None cuts nothing.
    max_tokens: limit of the prompt, without a rationale.
    cot: the prompt asks for a rationale.

  Returns:
    Questions in the order of the pairs, and reasons by row of the pair.
  """
  reasons = _unaskable(pairs, template)
  questions = []
  for row, pair in enumerate(pairs):
    if pair.first == pair.second or row in reasons:
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
        reasons[row] = str(error)
        continue
      context, cut = fitted.context, fitted.cut_tokens
    for swap in (False, True) if both_orders else (False,):
      questions.append(Question(row, pair, context, cut, swap))
  return questions, reasons


def _unaskable(
  pairs: Sequence[records.Pair], template: prompts.Template
) -> dict[int, str]:
  """Why some pairs cannot be put into the prompt, by row."""
  # Lines by which the labeler knows where the second text begins and where it
  # is asked; a candidate that has one could speak for the other. Of markers
  # such as "Summary 2:" the beginning of a line is enough.
  _, *parts = template.pairwise_parts()
  lines = {line.strip().lower() for part in parts for line in part.split("\n")}
  lines.discard("")
  begins = tuple(
    line.rstrip(" :-") for line in lines if re.search(r"[a-z]\W*\d|=$", line)
  )
  reasons = {}
  for row, pair in enumerate(pairs):
    texts = (pair.context, pair.first, pair.second)
    if any(_is_broken(text) for text in texts):
      reasons[row] = "a text holds half a surrogate pair; it is no Unicode"
    for line in (pair.first + "\n" + pair.second).lower().split("\n"):
      if line.strip() in lines or line.strip().startswith(begins):
        reasons[row] = (
          f"a candidate has the line {line.strip()[:60]!r}, which poses as a "
          "part of the prompt"
        )
  return reasons


def _is_broken(text: str) -> bool:
  try:
    text.encode("utf-8")
  except UnicodeEncodeError:
    return True
  return False
