# SPDX-License-Identifier: Apache-2.0
"""Principle judge: compares two responses by one principle at a time.

Sun et al., arXiv 2310.05910, section 3.2. Each principle is asked in both
presentation orders; where the orders disagree, the principle decides nothing.
All questions of all pairs are one backend call.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Literal, Sequence

from rlaif_jax.core import jsonl
from rlaif_jax.core import protocols
from rlaif_jax.core import records
from rlaif_jax.core import validation
from rlaif_jax.labeling import judgments
from rlaif_jax.labeling import option_probs
from rlaif_jax.labeling import principles as principles_lib
from rlaif_jax.text import prompts


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrincipleJudgeConfig(validation.Validated):
  """Settings of a principle judge.

  Fields:
    principles_file: file of principles, or the name of one of the library.
    principle_template: name or .toml path of a principle template.
    max_context_tokens: limit of a prompt, used if a tokenizer is given.
    judgment: "log_probs" reads the log-probs of the options; "text" parses
      generated text, for labelers without log-probs.
  """

  principles_file: str
  principle_template: str = "principle_pairwise"
  max_context_tokens: validation.PositiveInt = 4096
  judgment: Literal["log_probs", "text"] = "log_probs"

  def load_template(self) -> prompts.Template:
    """Loads the template.

    Raises:
      ValueError: the template is of another kind.
    """
    template = prompts.load(self.principle_template)
    template.check_kind("principle")
    return template

  def provenance(self, backend_name: str) -> records.Row:
    """Returns everything that a label depends on besides the pair."""
    principles = principles_lib.read(self.principles_file)
    return {
      "template": self.load_template().fingerprint(),
      "backend": backend_name,
      "settings": {
        "principles": principles.fingerprint(),
        "max_context_tokens": self.max_context_tokens,
        "judgment": self.judgment,
      },
    }

  def fingerprint(self, backend_name: str) -> str:
    """Returns a hash of `provenance`."""
    source = json.dumps(self.provenance(backend_name), sort_keys=True)
    return records.content_id(source)


def judge_pairs(
  pairs: Sequence[records.Pair],
  backend: protocols.Backend,
  config: PrincipleJudgeConfig,
  *,
  tokenizer: protocols.Tokenizer | None = None,
  quarantine: jsonl.Quarantine | None = None,
) -> tuple[list[records.Preference], records.Usage]:
  """Labels pairs by the mean over principles of P(first is better), by weight.

  A principle whose orders disagree counts 0.5. A pair of identical responses is
  not sent to the backend.

  Args:
    pairs: pairs to label.
    backend: language model.
    config: settings of the judge.
    tokenizer: tokenizer of the backend, used to truncate long contexts; None
      truncates nothing.
    quarantine: receives pairs to which no principle applies, or without a valid
      judgment. None raises for the first such pair.

  Returns:
    Preferences in the order of `pairs` without the quarantined ones, and the
    tokens used. `rationales` has the text of each principle twice, and
    `p_rationales` P(first is better) by it, in the first order and in the
    second. `p_orders` is empty.

  Raises:
    ValueError: a pair has no label and `quarantine` is None.
  """
  template = config.load_template()
  principles = principles_lib.read(config.principles_file)
  texts, asked, errors = [], {}, {}
  for row, pair in enumerate(pairs):
    if pair.first == pair.second:
      continue
    own = principles.of(pair.context)
    try:
      if not own:
        raise ValueError("no principle applies to its context")
      texts += _questions(pair, own, template, config, tokenizer)
      asked[row] = own
    except ValueError as error:
      errors[row] = str(error)
  judge = judgments.JUDGE_FUNCTIONS[config.judgment]
  outputs, usage = judge(backend, texts, template.options)
  remaining = iter(outputs)
  result = []
  for row, pair in enumerate(pairs):
    own = asked.get(row, [])
    judged = [next(remaining) for _ in range(2 * len(own))]
    failed = [judgment.error for judgment in judged if judgment.error]
    if row in errors or failed:
      reason = errors.get(row) or failed[0]
      option_probs.reject(quarantine, row=pair, reason=reason)
      continue
    shown_first = [j.probabilities[0] for j in judged[: len(own)]]
    shown_second = [j.probabilities[1] for j in judged[len(own) :]]
    values = [
      agreed(*orders) for orders in zip(shown_first, shown_second, strict=True)
    ]
    weights = [principle.weight for principle in own]
    total = sum(w * p for w, p in zip(weights, values, strict=True))
    result.append(
      records.Preference(
        **records.to_row(pair),
        p_first=min(1.0, total / sum(weights)) if own else 0.5,
        rationales=tuple(principle.text for principle in own) * 2,
        p_rationales=(*shown_first, *shown_second),
        labeler=backend.name,
      )
    )
  return result, usage


def agreed(shown_first: float, shown_second: float) -> float:
  """Returns the mean of both orders, or 0.5 if they disagree."""
  if (shown_first - 0.5) * (shown_second - 0.5) <= 0:
    return 0.5
  return (shown_first + shown_second) / 2


def expected_usage(
  pair: records.Pair,
  config: PrincipleJudgeConfig,
  tokenizer: protocols.Tokenizer,
) -> tuple[records.Usage, records.Usage]:
  """Returns the expected and the maximum usage of a pair, which are equal."""
  own = principles_lib.read(config.principles_file).of(pair.context)
  if pair.first == pair.second or not own:
    return records.Usage(), records.Usage()
  template = config.load_template()
  texts = _questions(pair, own, template, config, None)
  lengths = [len(tokenizer.encode(text)) for text in texts]
  usage = records.Usage(
    input_tokens=sum(min(n, config.max_context_tokens) for n in lengths),
    output_tokens=len(texts),
    requests=len(texts),
  )
  return usage, usage


def _questions(
  pair: records.Pair,
  principles: Sequence[principles_lib.Principle],
  template: prompts.Template,
  config: PrincipleJudgeConfig,
  tokenizer: protocols.Tokenizer | None,
) -> list[str]:
  """Returns the prompts of all principles in the first order, then the second.

  Raises:
    ValueError: a prompt does not fit, even without a context.
  """
  context, sentences = pair.context, [p.text for p in principles]
  if tokenizer is not None:
    longest = max(sentences, key=lambda text: len(tokenizer.encode(text)))
    context = prompts.fit(
      template,
      context,
      (pair.first, pair.second, longest),
      tokenizer=tokenizer,
      max_tokens=config.max_context_tokens,
    ).context
  return [
    prompts.render_principle(template, context, *shown, text)
    for shown in ((pair.first, pair.second), (pair.second, pair.first))
    for text in sentences
  ]
