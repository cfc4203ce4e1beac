# SPDX-License-Identifier: Apache-2.0
"""Pointwise judge: scores single responses by an LLM.

A pointwise template asks for a score from 1 to 10 (section 2.2.2 of Lee et al.,
arXiv 2309.00267). A yesno template asks whether a response is harmful, for the
paper's harmless rate (section 2.3), as in the sister paper (arXiv 2403.10704,
table 8).
"""

from __future__ import annotations

import dataclasses
import json
from typing import Literal, Sequence

from absl import logging

from rlaif_jax.core import jsonl
from rlaif_jax.core import protocols
from rlaif_jax.core import records
from rlaif_jax.core import validation
from rlaif_jax.labeling import judgments
from rlaif_jax.labeling import option_probs
from rlaif_jax.text import prompts


@dataclasses.dataclass(frozen=True, kw_only=True)
class PointwiseJudgeConfig(validation.Validated):
  """Settings of a pointwise judge.

  Fields:
    template: name or .toml path of a pointwise or yesno template.
    max_context_tokens: limit of the prompt, used if a tokenizer is given; the
      paper's labeler reads 4096 tokens.
    judgment: "log_probs" reads the log-probs of the options; "text" parses
      generated text, for labelers without log-probs, and gives the named
      option probability 1.
  """

  template: str = "summary_rating"
  max_context_tokens: validation.PositiveInt = 4096
  judgment: Literal["log_probs", "text"] = "log_probs"

  def load_template(self) -> prompts.Template:
    """Loads the template.

    Raises:
      ValueError: the template is pairwise.
    """
    template = prompts.load(self.template)
    if template.kind == "pairwise":
      raise ValueError(
        f"template {self.template!r} is pairwise; use a pointwise or yesno "
        "template"
      )
    return template

  def fingerprint(self, backend_name: str) -> str:
    """Returns a hash of everything that a score depends on but the response."""
    settings = [self.max_context_tokens, self.judgment]
    return records.content_id(
      self.load_template().fingerprint(), backend_name, json.dumps(settings)
    )


def judge_responses(
  examples: Sequence[records.Example],
  backend: protocols.Backend,
  config: PointwiseJudgeConfig,
  *,
  tokenizer: protocols.Tokenizer | None = None,
  quarantine: jsonl.Quarantine | None = None,
) -> tuple[list[records.Rating], records.Usage]:
  """Scores `response` given `context` of each example in one backend call.

  A pointwise template gives the expected score in [1, 10]. A yesno template
  gives P(yes), or P(no) if its polarity is "flip": for a template that asks
  whether a response is harmful, the score is P(harmless).

  Args:
    examples: responses to score, with their contexts.
    backend: language model.
    config: settings of the judge.
    tokenizer: tokenizer of the backend, used to truncate long contexts; None
      truncates nothing.
    quarantine: receives examples without a valid judgment. None raises for the
      first such example.

  Returns:
    Ratings in the order of the examples without the quarantined ones, and the
    tokens used.

  Raises:
    ValueError: the template is pairwise, or an example has no valid judgment
      and `quarantine` is None.
  """
  template = config.load_template()
  render = (
    prompts.render_yesno
    if template.kind == "yesno"
    else prompts.render_pointwise
  )
  texts, rows, num_cut = [], [], 0
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
      context, num_cut = fitted.context, num_cut + (fitted.cut_tokens > 0)
    texts.append(render(template, context, example.response))
    rows.append(example)
  if num_cut:
    logging.info("Truncated %d of %d contexts.", num_cut, len(examples))
  judge = judgments.JUDGE_FUNCTIONS[config.judgment]
  outputs, usage = judge(backend, texts, template.options)
  ratings = []
  for example, judgment in zip(rows, outputs, strict=True):
    if judgment.error:
      option_probs.reject(quarantine, row=example, reason=judgment.error)
      continue
    ratings.append(_rating(example, judgment, template, backend.name))
  return ratings, usage


def _rating(
  example: records.Example,
  judgment: judgments.Judgment,
  template: prompts.Template,
  labeler: str,
) -> records.Rating:
  probabilities = judgment.probabilities
  if template.kind == "yesno":
    score = probabilities[1 if template.polarity == "flip" else 0]
  else:
    score = float(option_probs.expected_score(probabilities))
  return records.Rating(
    id=example.id,
    context=example.context,
    response=example.response,
    score=score,
    probabilities=probabilities,
    labeler=labeler,
  )
