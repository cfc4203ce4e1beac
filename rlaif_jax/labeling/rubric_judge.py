# SPDX-License-Identifier: Apache-2.0
"""Rubric judge: asks a labeler about each criterion of a response.

All questions about all responses are one backend call. They differ in their
last lines, so that a backend reads context and response once
(`labeling.prefixes`, `labeling.packed_prompts`).
"""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Literal, Sequence

from rlaif_jax.core import jsonl
from rlaif_jax.core import protocols
from rlaif_jax.core import records
from rlaif_jax.core import validation
from rlaif_jax.labeling import judgments
from rlaif_jax.labeling import option_probs
from rlaif_jax.labeling import rubrics as rubrics_lib
from rlaif_jax.text import prompts


@dataclasses.dataclass(frozen=True, kw_only=True)
class RubricJudgeConfig(validation.Validated):
  """Settings of a rubric judge.

  Fields:
    rubrics_file: file of rubrics, or the name of one of the library; see
      `rubrics.read`.
    question_template: name or .toml path of a rubric template.
    temperature: of labels of pairs: P(first is better) is the sigmoid of the
      difference of the scores divided by it.
    max_context_tokens: limit of a prompt, used if a tokenizer is given.
    judgment: "log_probs" reads the log-probs of yes and no; "text" parses
      generated text, for labelers without log-probs.
  """

  rubrics_file: str
  question_template: str = "rubric_yes_no"
  temperature: validation.PositiveFloat = 0.2
  max_context_tokens: validation.PositiveInt = 4096
  judgment: Literal["log_probs", "text"] = "log_probs"

  def load_template(self) -> prompts.Template:
    """Loads the template.

    Raises:
      ValueError: the template is of another kind.
    """
    template = prompts.load(self.question_template)
    template.check_kind("rubric")
    return template

  def provenance(self, backend_name: str) -> records.Row:
    """Returns everything that a label depends on besides the pair."""
    settings = dataclasses.asdict(self)
    del settings["question_template"], settings["rubrics_file"]
    rubrics = rubrics_lib.read(self.rubrics_file)
    return {
      "template": self.load_template().fingerprint(),
      "backend": backend_name,
      "settings": {**settings, "rubrics": rubrics.fingerprint()},
    }

  def fingerprint(self, backend_name: str) -> str:
    """Returns a hash of `provenance`."""
    source = json.dumps(self.provenance(backend_name), sort_keys=True)
    return records.content_id(source)


def judge_responses(
  examples: Sequence[records.Example],
  backend: protocols.Backend,
  config: RubricJudgeConfig,
  *,
  tokenizer: protocols.Tokenizer | None = None,
  quarantine: jsonl.Quarantine | None = None,
  rubrics: rubrics_lib.Rubrics | None = None,
) -> tuple[list[records.Rating], records.Usage]:
  """Scores `response` given `context` of each example in one backend call.

  Args:
    examples: responses to score, with their contexts.
    backend: language model.
    config: settings of the judge.
    tokenizer: tokenizer of the backend, used to truncate long contexts; None
      truncates nothing. All questions about a response read one context.
    quarantine: receives examples without a rubric, or without a valid judgment
      of some criterion. None raises for the first such example.
    rubrics: the rubrics; None reads those of the config.

  Returns:
    Ratings in the order of the examples without the quarantined ones, and the
    tokens used. A rating's probabilities are P(yes) of each criterion that has
    a weight, and its score is `Rubric.score` of them.

  Raises:
    ValueError: an example has no rating and `quarantine` is None, or the files
      of the config are invalid.
  """
  template = config.load_template()
  rubrics = rubrics or rubrics_lib.read(config.rubrics_file)
  texts: list[str] = []
  asked: list[tuple[records.Example, rubrics_lib.Rubric]] = []
  for example in examples:
    rubric = rubrics.find(example.context)
    try:
      if rubric is None:
        raise ValueError(
          "its context has no rubric; add one, or a row with no context as "
          "the rubric of all others"
        )
      texts += _questions(example, rubric, template, config, tokenizer)
    except ValueError as error:
      option_probs.reject(quarantine, row=example, reason=str(error))
      continue
    asked.append((example, rubric))
  judge = judgments.JUDGE_FUNCTIONS[config.judgment]
  outputs, usage = judge(backend, texts, template.options)
  remaining = iter(outputs)
  ratings = []
  for example, rubric in asked:
    judged = [next(remaining) for _ in rubric.asked]
    errors = [judgment.error for judgment in judged if judgment.error]
    if errors:
      option_probs.reject(quarantine, row=example, reason=errors[0])
      continue
    p_yes = tuple(judgment.probabilities[0] for judgment in judged)
    ratings.append(
      records.Rating(
        id=example.id,
        context=example.context,
        response=example.response,
        score=rubric.score(p_yes),
        probabilities=p_yes,
        labeler=backend.name,
      )
    )
  return ratings, usage


def judge_pairs(
  pairs: Sequence[records.Pair],
  backend: protocols.Backend,
  config: RubricJudgeConfig,
  *,
  tokenizer: protocols.Tokenizer | None = None,
  quarantine: jsonl.Quarantine | None = None,
) -> tuple[list[records.Preference], records.Usage]:
  """Labels pairs by the scores of their responses.

  There is no presentation order, so `p_orders` is empty. A pair of identical
  responses is not sent to the backend; its label is 0.5. See
  `judge_responses`.
  """
  examples = [
    records.Example(id=f"{row}/{side}", context=pair.context, response=text)
    for row, pair in enumerate(pairs)
    if pair.first != pair.second
    for side, text in enumerate((pair.first, pair.second))
  ]
  failed = jsonl.Quarantine()
  ratings, usage = judge_responses(
    examples, backend, config, tokenizer=tokenizer, quarantine=failed
  )
  scores = {rating.id: rating.score for rating in ratings}
  reasons = {bad["row"]["id"]: bad["reason"] for bad in failed.rows}
  result = []
  for row, pair in enumerate(pairs):
    names = (f"{row}/0", f"{row}/1")
    errors = [reasons[name] for name in names if name in reasons]
    if errors:
      option_probs.reject(quarantine, row=pair, reason=errors[0])
      continue
    margin = scores.get(names[0], 0.0) - scores.get(names[1], 0.0)
    p_first = 0.5 * (1.0 + math.tanh(margin / config.temperature / 2))
    result.append(
      records.Preference(
        **records.to_row(pair), p_first=p_first, labeler=backend.name
      )
    )
  return result, usage


def expected_usage(
  pair: records.Pair,
  config: RubricJudgeConfig,
  tokenizer: protocols.Tokenizer,
) -> tuple[records.Usage, records.Usage]:
  """Returns the expected and the maximum usage of a pair, which are equal."""
  rubric = rubrics_lib.read(config.rubrics_file).find(pair.context)
  if rubric is None or pair.first == pair.second:
    return records.Usage(), records.Usage()
  template = config.load_template()
  prompt = [
    prompts.render_rubric(template, pair.context, response, criterion.text)
    for response in (pair.first, pair.second)
    for criterion in rubric.asked
  ]
  lengths = [len(tokenizer.encode(text)) for text in prompt]
  usage = records.Usage(
    input_tokens=sum(min(n, config.max_context_tokens) for n in lengths),
    output_tokens=len(prompt),
    requests=len(prompt),
  )
  return usage, usage


def _questions(
  example: records.Example,
  rubric: rubrics_lib.Rubric,
  template: prompts.Template,
  config: RubricJudgeConfig,
  tokenizer: protocols.Tokenizer | None,
) -> list[str]:
  """Returns the prompts of the criteria that are asked.

  Raises:
    ValueError: a prompt does not fit, even without a context.
  """
  context, criteria = example.context, [c.text for c in rubric.asked]
  if tokenizer is not None:
    longest = max(criteria, key=lambda text: len(tokenizer.encode(text)))
    context = prompts.fit(
      template,
      context,
      (example.response, longest),
      tokenizer=tokenizer,
      max_tokens=config.max_context_tokens,
    ).context
  return [
    prompts.render_rubric(template, context, example.response, text)
    for text in criteria
  ]
