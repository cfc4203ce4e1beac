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
from typing import Any, Sequence

import numpy as np

from rlaif_jax.core import jsonl
from rlaif_jax.core import protocols
from rlaif_jax.core import records
from rlaif_jax.labeling import questions
from rlaif_jax.labeling import option_probs
from rlaif_jax.labeling import judgments
from rlaif_jax.text import prompts

# Probabilities lie on this grid (about 1e-12), where 1 - p and the mean of two
# are exact: a swapped pair gets exactly 1 - p.
_GRID = 2.0**40
# The paper's mean length of a rationale (its appendix L).
RATIONALE_TOKENS = 61


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgeConfig:
  """How pairs are judged; the defaults are the paper's where it has any.

  Fields:
    template: name or .toml path of a pairwise template.
    num_exemplars: how many of the template's pool of exemplars are shown;
      None: those that its file lists.
    exemplar_seed: draws them from the pool; None: the first ones.
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
    verdict: "log_probs" of the options, as in the paper; or "text", for a
      labeler that gives none: its answer is read, and the label of an order is
      0 or 1.
    seed: of the sampled rationales.
  """

  template: str = "summary_base"
  num_exemplars: int | None = None
  exemplar_seed: int | None = None
  orders: str = "both"
  chain_of_thought: bool = False
  num_samples: int = 1
  temperature: float = 0.0
  top_k: int = 40
  max_rationale_tokens: int = 512
  max_context_tokens: int = 4096
  verdict: str = "log_probs"
  seed: int = 0

  def __post_init__(self):
    if self.orders not in ("both", "first"):
      raise ValueError(
        f"orders is {self.orders!r}; it should be 'both' or 'first'"
      )
    if self.verdict not in ("log_probs", "text"):
      raise ValueError(
        f"verdict is {self.verdict!r}; it should be 'log_probs' or 'text'"
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

  def load_template(self) -> prompts.Template:
    """The template with the exemplars that are shown.

    Raises:
      ValueError: it is not pairwise, has no such exemplars, or cannot ask for
        a rationale.
    """
    template = prompts.load(
      self.template,
      num_exemplars=self.num_exemplars,
      exemplar_seed=self.exemplar_seed,
    )
    template.pairwise_parts(cot=self.chain_of_thought)
    return template

  def provenance(self, backend_name: str) -> dict[str, Any]:
    """All that a label depends on besides the pair itself.

    Settings that these labels do not use (the seed of a greedy judge) do not
    count, so that changing them does not pay for the same labels again.
    """
    used = ["orders", "max_context_tokens", "chain_of_thought"]
    if self.chain_of_thought:
      used += ["max_rationale_tokens", "temperature"]
    if self.temperature > 0:
      used += ["num_samples", "top_k", "seed"]
    if self.verdict != "log_probs":
      used += ["verdict"]
    settings = {field: getattr(self, field) for field in used}
    return {
      "template": self.load_template().fingerprint(),
      "backend": backend_name,
      "settings": settings,
    }

  def fingerprint(self, backend_name: str) -> str:
    """Names all that `provenance` says."""
    made = self.provenance(backend_name)
    return records.content_id(
      made["template"],
      made["backend"],
      json.dumps(made["settings"], sort_keys=True),
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
    quarantine: takes pairs without an answer (non-finite log-probs, a verdict
      that cannot be read, an empty rationale, a prompt that does not fit, a
      text that is no Unicode or poses as a part of the prompt); None makes
      one an error.

  Returns:
    Preferences in the order of `pairs`, without the quarantined ones, and
    what they cost. `rationales` has those of the first order, then those of
    the second.

  Raises:
    ValueError: the template is not pairwise, or see `quarantine`.
  """
  template = config.load_template()
  # 1. Questions: each pair in each order, its context cut to fit.
  limit = config.max_context_tokens
  if tokenizer is not None and config.chain_of_thought:
    limit -= config.max_rationale_tokens
    limit -= len(tokenizer.encode("\n" + template.ending))
  asked, reasons = questions.make_questions(
    pairs,
    template,
    both_orders=config.orders == "both",
    tokenizer=tokenizer,
    max_tokens=limit,
    cot=config.chain_of_thought,
  )
  # 2. Rationales, for each order its own; [None] asks without.
  rationales, spent = _explain(asked, backend, template, config)
  # 3. Verdicts: all rationales of all questions in one call.
  texts = [
    question.prompt(template, rationale=rationale)
    for question, own in zip(asked, rationales, strict=True)
    for rationale in own
  ]
  by_text = config.verdict == "text"
  read = judgments.by_text if by_text else judgments.by_log_probs
  answers, usage = read(backend, texts, template.options)
  # 4. Labels: P(first is better) of each order, then of the pair.
  p_orders = collections.defaultdict(list)
  written = collections.defaultdict(list)
  cut = {question.row: question.cut_tokens for question in asked}
  answer = iter(answers)
  for question, own in zip(asked, rationales, strict=True):
    said = [next(answer) for _ in own]
    flaws = ["empty rationale"] * ("" in own) + [v.flaw for v in said if v.flaw]
    if flaws:
      reasons[question.row] = flaws[0]
      continue
    turned = question.swap != (template.polarity == "flip")
    p_orders[question.row].append(_p_first(said, turned=turned))
    written[question.row] += [text for text in own if text is not None]
  # 5. Preferences in the order of the pairs; no label without an answer.
  result = []
  for row, pair in enumerate(pairs):
    if row in reasons:
      option_probs.reject(quarantine, row=pair, reason=reasons[row])
      continue
    own = p_orders[row]
    result.append(
      records.Preference(
        **records.to_row(pair),
        p_first=sum(own) / len(own) if own else 0.5,
        p_orders=tuple(own),
        rationales=tuple(written[row]),
        labeler=backend.name,
        cut_tokens=cut.get(row, 0),
      )
    )
  return result, spent + usage


def expected_usage(
  pair: records.Pair,
  config: JudgeConfig,
  tokenizer: protocols.Tokenizer,
) -> tuple[records.Usage, records.Usage]:
  """What a pair would cost: with rationales of mean length, and at most.

  With chain of thought the prompt is read twice for each rationale: once to
  write it, once, with it, to give the verdict.
  """
  if pair.first == pair.second:
    return records.Usage(), records.Usage()
  cot = config.chain_of_thought
  pieces = prompts.segments(
    config.load_template(), pair.context, (pair.first, pair.second), cot=cot
  )
  prompt = sum(len(tokenizer.encode(piece.text)) for piece in pieces)
  prompt = min(prompt, config.max_context_tokens)
  count = (2 if config.orders == "both" else 1) * config.num_samples

  def usage(rationale: int) -> records.Usage:
    if not cot:
      return records.Usage(
        input_tokens=count * prompt, output_tokens=count, requests=count
      )
    return records.Usage(
      input_tokens=count * (2 * prompt + rationale),
      output_tokens=count * (rationale + 1),
      requests=2 * count,
    )

  longest = config.max_rationale_tokens
  return usage(min(RATIONALE_TOKENS, longest)), usage(longest)


def _explain(
  asked: Sequence[questions.Question],
  backend: protocols.Backend,
  template: prompts.Template,
  config: JudgeConfig,
) -> tuple[list[list[str | None]], records.Usage]:
  """The rationales of each question; [None] for each without CoT."""
  if not config.chain_of_thought or not asked:
    return [[None] for _ in asked], records.Usage()
  texts = [question.prompt(template, cot=True) for question in asked]
  rationales = [[] for _ in asked]
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


def _p_first(said: Sequence[judgments.Verdict], *, turned: bool) -> float:
  """P(first is better) of one order, its verdicts averaged.

  `turned`: the option that is read names the second, or the worse.
  """
  named = np.mean([verdict.probabilities[0] for verdict in said])
  shown_first = round(float(named) * _GRID) / _GRID
  return 1.0 - shown_first if turned else shown_first
