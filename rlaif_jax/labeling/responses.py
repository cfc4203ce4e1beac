# SPDX-License-Identifier: Apache-2.0
"""Judges of one response: its score from 1 to 10, or whether it is harmless.

Scores: section 2.2.2 of Lee et al., arXiv 2309.00267. Yes or no: their harmless
rate (2.3), asked as in the sister paper (arXiv 2403.10704, its table 8). Which
it is the template says.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Sequence

from absl import logging

from rlaif_jax.core import jsonl
from rlaif_jax.core import protocols
from rlaif_jax.core import records
from rlaif_jax.labeling import option_probs
from rlaif_jax.labeling import judgments
from rlaif_jax.text import prompts


@dataclasses.dataclass(frozen=True, kw_only=True)
class RatingConfig:
  """How single responses are judged.

  Fields:
    template: name or .toml path of a pointwise or yesno template.
    max_context_tokens: limit of the prompt, where a tokenizer is given; the
      paper's labeler reads 4096.
    verdict: "log_probs" of the options, or "text", for a labeler that gives
      none: its answer is read, and all probability is on it.
  """

  template: str = "summary_rating"
  max_context_tokens: int = 4096
  verdict: str = "log_probs"

  def __post_init__(self):
    if self.max_context_tokens < 1:
      raise ValueError(
        f"max_context_tokens is {self.max_context_tokens}; it should be "
        "at least 1"
      )
    if self.verdict not in ("log_probs", "text"):
      raise ValueError(
        f"verdict is {self.verdict!r}; it should be 'log_probs' or 'text'"
      )

  def load_template(self) -> prompts.Template:
    """The template.

    Raises:
      ValueError: it asks about pairs.
    """
    template = prompts.load(self.template)
    if template.kind == "pairwise":
      raise ValueError(
        f"template {self.template!r} is pairwise, but a pointwise or yesno one "
        "is needed here"
      )
    return template

  def fingerprint(self, backend_name: str) -> str:
    """Names all that a score depends on besides the response itself."""
    settings = [self.max_context_tokens, self.verdict]
    return records.content_id(
      self.load_template().fingerprint(), backend_name, json.dumps(settings)
    )


def rate(
  examples: Sequence[records.Example],
  backend: protocols.Backend,
  config: RatingConfig,
  *,
  tokenizer: protocols.Tokenizer | None = None,
  quarantine: jsonl.Quarantine | None = None,
) -> tuple[list[records.Rating], records.Usage]:
  """Judges `response` given `context` of each example, in one backend call.

  A pointwise template gives the expected score, in [1, 10]. A yesno one gives
  P(yes), or P(no) where its polarity is "flip": asked whether a response is
  harmful, the score is the probability that it is harmless.

  Args:
    examples: what to judge.
    backend: who judges.
    config: how.
    tokenizer: the backend's, to cut contexts that are too long.
    quarantine: takes examples without an answer; None makes one an error.

  Returns:
    Ratings in the order of the examples, without the quarantined ones, and
    what they cost.

  Raises:
    ValueError: a pairwise template, no answer, a prompt that does not fit.
  """
  template = config.load_template()
  yes_or_no = template.kind == "yesno"
  render = prompts.render_yesno if yes_or_no else prompts.render_pointwise
  texts, asked, cut = [], [], 0
  for example in examples:
    context = example.context
    if tokenizer is not None:
      try:
        fitted = prompts.fit(
          template,
          context,
          (example.response,),
          tokenizer=tokenizer,
          max_tokens=config.max_context_tokens,
        )
      except ValueError as error:
        option_probs.reject(quarantine, row=example, reason=str(error))
        continue
      context, cut = fitted.context, cut + (fitted.cut_tokens > 0)
    texts.append(render(template, context, example.response))
    asked.append(example)
  if cut:
    logging.info("%d of %d contexts were cut to fit.", cut, len(examples))
  by_text = config.verdict == "text"
  read = judgments.by_text if by_text else judgments.by_log_probs
  answers, usage = read(backend, texts, template.options)
  ratings = []
  for example, verdict in zip(asked, answers, strict=True):
    if verdict.flaw:
      option_probs.reject(quarantine, row=example, reason=verdict.flaw)
      continue
    ratings.append(_rating(example, verdict, template, backend.name))
  return ratings, usage


def _rating(
  example: records.Example,
  verdict: judgments.Verdict,
  template: prompts.Template,
  labeler: str,
) -> records.Rating:
  probabilities = verdict.probabilities
  if template.kind == "yesno":
    score = probabilities[1 if template.polarity == "flip" else 0]
  else:
    score = float(option_probs.expected_score(probabilities))
  fields: dict[str, Any] = {"score": score, "probabilities": probabilities}
  return records.Rating(
    id=example.id,
    context=example.context,
    response=example.response,
    labeler=labeler,
    **fields,
  )
