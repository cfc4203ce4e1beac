# SPDX-License-Identifier: Apache-2.0
"""A labeler's judgment on one prompt: option log-probs or parsed text.

The paper uses log-probs (section 2.1 of Lee et al., arXiv 2309.00267). Parsing
text is for labelers without log-probs; text that cannot be parsed is an error
and never a guess.
"""

from __future__ import annotations

import re
from typing import NamedTuple, Sequence

from rlaif_jax.core import protocols
from rlaif_jax.core import records
from rlaif_jax.labeling import option_probs

# Enough for "The better one is Summary 2.".
_MAX_TOKENS = 16
_SHOWN = 60  # characters of the output that an error quotes


class Judgment(NamedTuple):
  """Probabilities of the options, or the error in their place."""

  probabilities: tuple[float, ...]
  error: str = ""


def from_log_probs(
  backend: protocols.Backend, texts: Sequence[str], options: Sequence[str]
) -> tuple[list[Judgment], records.Usage]:
  """Returns the softmax of the options' log-probs for each prompt."""
  prefix_of = backend.prefix_options(options)
  rows, usage = option_probs.score_options(backend, texts, options)
  judgments = []
  for row in rows:
    error = option_probs.find_error(row, prefix_of)
    if error:
      judgments.append(Judgment((), error))
      continue
    values = option_probs.probabilities_from_log_probs(row, prefix_of)
    judgments.append(Judgment(tuple(float(p) for p in values)))
  return judgments, usage


def from_text(
  backend: protocols.Backend, texts: Sequence[str], options: Sequence[str]
) -> tuple[list[Judgment], records.Usage]:
  """Returns 1 for the option that the greedy output names, 0 for the others."""
  if not texts:
    return [], records.Usage()
  outputs, usage = complete(
    backend,
    texts,
    max_tokens=_MAX_TOKENS,
    temperature=0.0,
    top_k=0,
    seed=0,
    stop="",
  )
  judgments = []
  for output in outputs:
    index = parse_option(output, options)
    if index is None:
      quoted = output.strip()[:_SHOWN]
      judgments.append(Judgment((), f"unparseable judgment {quoted!r}"))
      continue
    judgments.append(
      Judgment(tuple(float(i == index) for i in range(len(options))))
    )
  return judgments, usage


# Values of the field `judgment` of the judge configs.
JUDGE_FUNCTIONS = {"log_probs": from_log_probs, "text": from_text}


def complete(
  backend: protocols.Backend, texts: Sequence[str], **settings: float | str
) -> tuple[list[str], records.Usage]:
  """Calls `backend.complete` and checks the number of outputs.

  Raises:
    ValueError: the backend did not return one output per prompt.
  """
  outputs, usage = backend.complete(texts, **settings)
  if len(outputs) != len(texts):
    raise ValueError(
      f"backend {backend.name!r} completed {len(outputs)} of {len(texts)} "
      "prompts; fix its complete method"
    )
  return outputs, usage


def parse_option(output: str, options: Sequence[str]) -> int | None:
  """Returns the index of the option that a text names; None if not exactly one.

  A text that begins with an option names it ("2", "1. It is ..."). Otherwise it
  names the only option that occurs in it as a word. "10" does not match "1",
  "1.5" and "1/2" match neither, and case is ignored.
  """
  number = r"(?:(?<![\d./])(?:{})(?!\w|[.,/]\d))"
  patterns = [
    re.compile(r"(?<!\w)" + number.format(re.escape(option.strip())), re.I)
    for option in options
  ]
  start = output.lstrip(" \t\r\n\"'`*([{<#-")
  first = [i for i, pattern in enumerate(patterns) if pattern.match(start)]
  if len(first) == 1 and not re.match(
    r"\W*(?:or|and|&|/)\W", start[len(options[first[0]].strip()) :], re.I
  ):
    return first[0]
  inside = [i for i, pattern in enumerate(patterns) if pattern.search(output)]
  return inside[0] if len(inside) == 1 else None
