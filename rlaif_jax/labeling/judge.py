# SPDX-License-Identifier: Apache-2.0
"""The pairwise judge: soft labels from option log-probs, both orders averaged.

Owns section 2.1 of Lee et al., arXiv 2309.00267: two presentation orders,
two-step chain of thought, self-consistency, polarity. Storing labels is
`labeling.store`; where the model runs is the backend's matter.
"""

from __future__ import annotations

import collections
import dataclasses
import json
from typing import NamedTuple, Sequence

from absl import logging

from rlaif_jax.core import jsonl
from rlaif_jax.core import protocols
from rlaif_jax.core import records
from rlaif_jax.labeling import rating
from rlaif_jax.text import prompts

# Probabilities lie on this grid (about 1e-12), where 1 - p and the mean of two
# are exact: a swapped pair gets exactly 1 - p.
_GRID = 2.0**40


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgeConfig:
  """How pairs are judged; the defaults are the paper's where it has any.

  Fields:
    template: name or .toml path of a pairwise template.
    orders: "both" averages the two presentation orders (section 2.1.1);
      "first" asks in the stored order only, at half the cost and biased.
    chain_of_thought: a rationale is written before the verdict is scored.
    num_samples: rationales per order whose verdicts are averaged
      (self-consistency, appendix M).
    temperature: of the rationales; 0 is greedy.
    top_k: of the sampled rationales; 0 is no limit.
    max_rationale_tokens: a longer rationale is cut; the verdict is asked for
      all the same, since it is scored and not parsed.
    max_context_tokens: limit of the whole prompt, rationale included, where a
      tokenizer is given.
    seed: of the sampled rationales.
  """

  template: str = "summary_base"
  orders: str = "both"
  chain_of_thought: bool = False
  num_samples: int = 1
  temperature: float = 0.0
  top_k: int = 40
  max_rationale_tokens: int = 512
  max_context_tokens: int = 4096
  seed: int = 0

  def __post_init__(self):
    if self.orders not in ("both", "first"):
      raise ValueError(
        f"orders is {self.orders!r}; it should be 'both' or 'first'"
      )
    least = {"num_samples": 1, "temperature": 0, "top_k": 0}
    least |= {"max_rationale_tokens": 1, "max_context_tokens": 1}
    for field, bound in least.items():
      if not getattr(self, field) >= bound:
        raise ValueError(
          f"{field} is {getattr(self, field)}; it should be at least {bound}"
        )
    if self.temperature > 0 and not self.chain_of_thought:
      raise ValueError(
        f"temperature is {self.temperature}, but only rationales are sampled; "
        "set chain_of_thought, or temperature to 0"
      )
    if self.num_samples > 1 and self.temperature == 0:
      raise ValueError(
        f"num_samples is {self.num_samples}, but at temperature 0 all "
        "rationales are the same; set a temperature, or num_samples to 1"
      )

  def fingerprint(self, backend_name: str) -> str:
    """Names all that a label depends on besides the pair itself.

    Settings that these labels do not use (the seed of a greedy judge) do not
    count, so that changing them does not pay for the same labels again.
    """
    used = ["orders", "max_context_tokens", "chain_of_thought"]
    if self.chain_of_thought:
      used += ["max_rationale_tokens", "temperature"]
    if self.temperature > 0:
      used += ["num_samples", "top_k", "seed"]
    settings = {field: getattr(self, field) for field in used}
    return records.content_id(
      prompts.load(self.template).fingerprint(),
      backend_name,
      json.dumps(settings, sort_keys=True),
    )


class _Question(NamedTuple):
  """One pair in one presentation order."""

  row: int  # of the pair
  pair: records.Pair
  context: str  # cut to fit
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


def judge_pairs(
  pairs: Sequence[records.Pair],
  backend: protocols.Backend,
  config: JudgeConfig,
  *,
  tokenizer: protocols.Tokenizer | None = None,
  quarantine: jsonl.Quarantine | None = None,
) -> tuple[list[records.Preference], records.Usage]:
  """Labels pairs: all prompts of a step go to the backend in one call.

      p = 1/2 (P(option 1 | first, second) + P(option 2 | second, first))

  and 1 - p where the template asks for the worse one. With K rationales per
  order, each order's probability is the mean over its K verdicts (appendix M:
  distributions are averaged, no vote). Probabilities lie on a grid of 2^-40,
  so that swapping a pair gives exactly 1 - p; a swapped prompt must get the
  same log-probs, so a backend derives a sample's randomness from (seed, text
  of the prompt), never from the place in the batch.

  A pair of identical candidates is not asked: its label is 0.5 and its
  `p_orders` is empty.

  Args:
    pairs: what to label.
    backend: who labels.
    config: how.
    tokenizer: the backend's, to cut contexts that are too long.
    quarantine: takes pairs without an answer (non-finite log-probs, an empty
      rationale, a prompt that does not fit); None makes one an error.

  Returns:
    Preferences in the order of `pairs`, without the quarantined ones, and
    what they cost. `rationales` has those of the first order, then those of
    the second.

  Raises:
    ValueError: the template is not pairwise, or see `quarantine`.
  """
  template = prompts.load(config.template)
  template.pairwise_parts(cot=config.chain_of_thought)  # kind and cot_ending
  prefix_of = backend.prefix_options(template.options)
  # 1. Questions: each pair in each order, its context cut to fit.
  contexts, reasons = _fit(pairs, template, config, tokenizer)
  questions = [
    _Question(row, pairs[row], context, swap)
    for row, context in contexts.items()
    for swap in ((False, True) if config.orders == "both" else (False,))
  ]
  # 2. Rationales, for each order its own; [None] asks without.
  rationales, spent = _explain(questions, backend, template, config)
  # 3. Verdicts: all rationales of all questions in one call.
  texts = [
    question.prompt(template, rationale=rationale)
    for question, own in zip(questions, rationales, strict=True)
    for rationale in own
  ]
  answers, usage = rating.ask_options(backend, texts, template.options)
  # 4. Labels: P(first is better) of each order, then of the pair.
  p_orders = collections.defaultdict(list)
  written = collections.defaultdict(list)
  answer = iter(answers)
  for question, own in zip(questions, rationales, strict=True):
    verdicts = [next(answer) for _ in own]
    reason = _flaw(verdicts, own, prefix_of)
    if reason:
      reasons[question.row] = reason
      continue
    p_orders[question.row].append(
      _p_first(
        verdicts, prefix_of, polarity=template.polarity, swap=question.swap
      )
    )
    written[question.row] += [text for text in own if text is not None]
  # 5. Preferences in the order of the pairs; no label without an answer.
  result = []
  for row, pair in enumerate(pairs):
    if row in reasons:
      rating.reject(quarantine, row=pair, reason=reasons[row])
      continue
    own = p_orders[row]
    result.append(
      records.Preference(
        **records.to_row(pair),
        p_first=sum(own) / len(own) if own else 0.5,
        p_orders=tuple(own),
        rationales=tuple(written[row]),
        labeler=backend.name,
      )
    )
  return result, spent + usage


def _fit(
  pairs: Sequence[records.Pair],
  template: prompts.Template,
  config: JudgeConfig,
  tokenizer: protocols.Tokenizer | None,
) -> tuple[dict[int, str], dict[int, str]]:
  """Contexts of the pairs to ask, and why others cannot be, by row."""
  contexts, reasons, cut = {}, {}, []
  limit = config.max_context_tokens
  if tokenizer is not None and config.chain_of_thought:
    limit -= config.max_rationale_tokens
    limit -= len(tokenizer.encode("\n" + template.ending))
  for row, pair in enumerate(pairs):
    if pair.first == pair.second:
      continue
    contexts[row] = pair.context
    if tokenizer is None:
      continue
    try:
      fitted = prompts.fit(
        template,
        pair.context,
        (pair.first, pair.second),
        tokenizer=tokenizer,
        max_tokens=limit,
        cot=config.chain_of_thought,
      )
    except ValueError as error:
      reasons[row] = str(error)
      del contexts[row]
      continue
    contexts[row] = fitted.context
    cut += [fitted.cut_tokens] * (fitted.cut_tokens > 0)
  if cut:
    logging.info(
      "%d of %d contexts were cut to fit, by %d tokens in all.",
      len(cut),
      len(pairs),
      sum(cut),
    )
  return contexts, reasons


def _explain(
  questions: Sequence[_Question],
  backend: protocols.Backend,
  template: prompts.Template,
  config: JudgeConfig,
) -> tuple[list[list[str | None]], records.Usage]:
  """The rationales of each question; [None] for each without CoT."""
  if not config.chain_of_thought or not questions:
    return [[None] for _ in questions], records.Usage()
  texts = [question.prompt(template, cot=True) for question in questions]
  rationales = [[] for _ in questions]
  spent = records.Usage()
  for sample in range(config.num_samples):
    digest = records.content_id("rationale", str(config.seed), str(sample))
    answers, usage = backend.complete(
      texts,
      max_tokens=config.max_rationale_tokens,
      temperature=config.temperature,
      top_k=config.top_k,
      seed=int(digest[:7], 16),
      stop=template.ending.strip(),
    )
    if len(answers) != len(texts):
      raise ValueError(
        f"backend {backend.name!r} completed {len(answers)} of {len(texts)} "
        "prompts; mend its complete"
      )
    spent += usage
    for own, answer in zip(rationales, answers, strict=True):
      own.append(answer.strip())
  return rationales, spent


def _flaw(
  verdicts: Sequence[Sequence[float]],
  rationales: Sequence[str | None],
  prefix_of: Sequence[int],
) -> str:
  """Why a question has no answer, or ""."""
  if "" in rationales:
    return "empty rationale"
  flaws = [rating.flaw(verdict, prefix_of) for verdict in verdicts]
  return next((flaw for flaw in flaws if flaw), "")


def _p_first(
  verdicts: Sequence[Sequence[float]],
  prefix_of: Sequence[int],
  *,
  polarity: str,
  swap: bool,
) -> float:
  """P(first is better) of one order, its verdicts averaged."""
  named = rating.probabilities_from_log_probs(verdicts, prefix_of)[:, 0]
  shown_first = round(float(named.mean()) * _GRID) / _GRID
  turned = swap != (polarity == "flip")
  return 1.0 - shown_first if turned else shown_first
