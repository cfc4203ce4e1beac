# SPDX-License-Identifier: Apache-2.0
"""A labeler's verdict on one prompt: from log-probs, or read off its text.

Log-probs are the paper's way (section 2.1 of Lee et al., arXiv 2309.00267).
Reading text is for labelers that give none; what cannot be read is a flaw and
never a guess.
"""

from __future__ import annotations

import re
from typing import NamedTuple, Sequence

from rlaif_jax.core import protocols
from rlaif_jax.core import records
from rlaif_jax.labeling import option_probs

# Enough for "The better one is Summary 2." and too short for an essay.
_MAX_TOKENS = 16
_SHOWN = 60  # characters of an answer that a reason quotes


class Verdict(NamedTuple):
  """Probabilities of the options, or why there are none."""

  probabilities: tuple[float, ...]
  flaw: str = ""


def by_log_probs(
  backend: protocols.Backend, texts: Sequence[str], options: Sequence[str]
) -> tuple[list[Verdict], records.Usage]:
  """Softmax of the options' log-probs, for each prompt."""
  prefix_of = backend.prefix_options(options)
  rows, usage = option_probs.ask_options(backend, texts, options)
  verdicts = []
  for row in rows:
    flaw = option_probs.flaw(row, prefix_of)
    if flaw:
      verdicts.append(Verdict((), flaw))
      continue
    found = option_probs.probabilities_from_log_probs(row, prefix_of)
    verdicts.append(Verdict(tuple(float(p) for p in found)))
  return verdicts, usage


def by_text(
  backend: protocols.Backend, texts: Sequence[str], options: Sequence[str]
) -> tuple[list[Verdict], records.Usage]:
  """1 for the option that the greedy answer names, 0 for the others."""
  if not texts:
    return [], records.Usage()
  answers, usage = backend.complete(
    texts, max_tokens=_MAX_TOKENS, temperature=0.0, top_k=0, seed=0, stop=""
  )
  if len(answers) != len(texts):
    raise ValueError(
      f"backend {backend.name!r} completed {len(answers)} of {len(texts)} "
      "prompts; mend its complete"
    )
  verdicts = []
  for answer in answers:
    named = parse(answer, options)
    if named is None:
      said = answer.strip()[:_SHOWN]
      verdicts.append(Verdict((), f"unparseable verdict {said!r}"))
      continue
    verdicts.append(
      Verdict(tuple(float(i == named) for i in range(len(options))))
    )
  return verdicts, usage


def parse(answer: str, options: Sequence[str]) -> int | None:
  """Which option an answer names, or None if it names none or several.

  An answer that begins with an option names it ("2", "1. It is ..."); else it
  names the only option that stands in it as a word. "10" is not "1", "1.5"
  and "1/2" are neither, and case does not count.
  """
  number = r"(?:(?<![\d./])(?:{})(?!\w|[.,/]\d))"
  patterns = [
    re.compile(r"(?<!\w)" + number.format(re.escape(option.strip())), re.I)
    for option in options
  ]
  begin = answer.lstrip(" \t\r\n\"'`*([{<#-")
  first = [i for i, found in enumerate(patterns) if found.match(begin)]
  if len(first) == 1 and not re.match(
    r"\W*(?:or|and|&|/)\W", begin[len(options[first[0]].strip()) :], re.I
  ):
    return first[0]
  inside = [i for i, found in enumerate(patterns) if found.search(answer)]
  return inside[0] if len(inside) == 1 else None
