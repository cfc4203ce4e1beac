# SPDX-License-Identifier: Apache-2.0
"""Pairwise judge: soft preference labels from option log-probs.

Implements section 2.1 of Lee et al., arXiv 2309.00267: two presentation orders,
two-step chain of thought, self-consistency and polarity. Works in memory: give
`judge_pairs` a list of pairs and a backend. `labeling.store` keeps labels on
disk.
"""

from __future__ import annotations

import collections
import dataclasses
import json
from typing import Literal, Sequence

import numpy as np

from rlaif_jax.core import jsonl
from rlaif_jax.core import protocols
from rlaif_jax.core import records
from rlaif_jax.core import validation
from rlaif_jax.labeling import judge_prompts
from rlaif_jax.labeling import judgments
from rlaif_jax.labeling import option_probs
from rlaif_jax.text import prompts

# Probabilities are rounded to this grid (about 1e-12), on which 1 - p and the
# mean of two values are exact: swapping a pair gives exactly 1 - p.
_GRID = 2.0**40
# Mean length of a rationale in the paper (appendix L).
RATIONALE_TOKENS = 61


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairwiseJudgeConfig(validation.Validated):
  """Settings of a pairwise judge; the defaults follow the paper.

  Fields:
    template: name or .toml path of a pairwise template.
    num_exemplars: number of exemplars from the template's pool; None uses the
      exemplars that the template file lists.
    exemplar_seed: seed for drawing exemplars from the pool; None takes the
      first ones.
    orders: "both" averages the two presentation orders (section 2.1.1);
      "first" asks in the stored order only, at half the cost and with position
      bias.
    chain_of_thought: generates a rationale before the judgment.
    num_samples: rationales per order, whose judgments are averaged
      (self-consistency, appendix M).
    temperature: sampling temperature of rationales; 0 is greedy.
    top_k: top-k of sampled rationales; 0 disables it.
    max_rationale_tokens: limit of a rationale. A longer one is truncated and
      still used.
    max_context_tokens: limit of the whole prompt including the rationale; used
      if a tokenizer is given.
    judgment: "log_probs" reads the log-probs of the options, as in the paper.
      "text" parses generated text, for labelers without log-probs; the label
      of an order is then 0 or 1.
    seed: seed of sampled rationales.
  """

  template: str = "summary_base"
  num_exemplars: int | None = None
  exemplar_seed: int | None = None
  orders: Literal["both", "first"] = "both"
  chain_of_thought: bool = False
  num_samples: validation.PositiveInt = 1
  temperature: validation.NonNegativeFloat = 0.0
  top_k: validation.NonNegativeInt = 40
  max_rationale_tokens: validation.PositiveInt = 512
  max_context_tokens: validation.PositiveInt = 4096
  judgment: Literal["log_probs", "text"] = "log_probs"
  seed: int = 0

  def __post_init__(self):
    super().__post_init__()
    if self.temperature > 0 and not self.chain_of_thought:
      raise ValueError(
        f"PairwiseJudgeConfig.temperature is {self.temperature}, but only "
        "rationales are sampled; set chain_of_thought, or temperature to 0"
      )
    if self.num_samples > 1 and self.temperature == 0:
      raise ValueError(
        f"PairwiseJudgeConfig.num_samples is {self.num_samples}, but at "
        "temperature 0 all rationales are equal; set a temperature, or "
        "num_samples to 1"
      )

  def load_template(self) -> prompts.Template:
    """Loads the template with its exemplars.

    Raises:
      ValueError: the template is not pairwise, lacks the exemplars, or has no
        text that asks for a rationale.
    """
    template = prompts.load(
      self.template,
      num_exemplars=self.num_exemplars,
      exemplar_seed=self.exemplar_seed,
    )
    template.pairwise_parts(cot=self.chain_of_thought)
    return template

  def provenance(self, backend_name: str) -> records.Row:
    """Returns everything that a label depends on besides the pair.

    Settings that do not affect the labels, such as the seed of a greedy judge,
    are left out, so that changing them does not request the labels again.
    """
    used = ["orders", "max_context_tokens", "chain_of_thought"]
    if self.chain_of_thought:
      used += ["max_rationale_tokens", "temperature"]
    if self.temperature > 0:
      used += ["num_samples", "top_k", "seed"]
    if self.judgment != "log_probs":
      used += ["judgment"]
    settings = {field: getattr(self, field) for field in used}
    return {
      "template": self.load_template().fingerprint(),
      "backend": backend_name,
      "settings": settings,
    }

  def fingerprint(self, backend_name: str) -> str:
    """Returns a hash of `provenance`."""
    source = self.provenance(backend_name)
    return records.content_id(
      source["template"],
      source["backend"],
      json.dumps(source["settings"], sort_keys=True),
    )


def judge_pairs(
  pairs: Sequence[records.Pair],
  backend: protocols.Backend,
  config: PairwiseJudgeConfig,
  *,
  tokenizer: protocols.Tokenizer | None = None,
  quarantine: jsonl.Quarantine | None = None,
) -> tuple[list[records.Preference], records.Usage]:
  """Labels pairs with P(first is better); batches all prompts of each step.

      p = 1/2 (P(option 1 | first, second) + P(option 2 | second, first))

  and 1 - p if the template asks for the worse response. With K rationales per
  order, the probability of an order is the mean over its K judgments (appendix
  M averages distributions; it does not vote). Probabilities are rounded to
  multiples of 2^-40, so that swapping a pair gives exactly 1 - p. This needs
  equal log-probs for equal prompts: a backend derives the randomness of a
  sample from (seed, prompt text) and not from its position in the batch.

  A pair of identical responses is not sent to the backend; its label is 0.5
  and its `p_orders` is empty.

  Args:
    pairs: pairs to label.
    backend: language model.
    config: settings of the judge.
    tokenizer: tokenizer of the backend, used to truncate long contexts; None
      truncates nothing.
    quarantine: receives pairs without a valid judgment: non-finite log-probs,
      unparseable text, an empty rationale, a prompt that does not fit, invalid
      Unicode, or a response that imitates a part of the prompt. None raises
      for the first such pair.

  Returns:
    Preferences in the order of `pairs` without the quarantined ones, and the
    tokens used. `rationales` holds those of the first order, then those of the
    second.

  Raises:
    ValueError: the template is not pairwise, or a pair has no valid judgment
      and `quarantine` is None.
  """
  template = config.load_template()
  # 1. Prompts: each pair in each order, with the context truncated to fit.
  requests, errors = make_prompts(pairs, config, template, tokenizer)
  # 2. Rationales of each prompt; [None] without chain of thought.
  rationales, rationale_usage = _generate_rationales(
    requests, backend, template, config
  )
  # 3. Judgments: all rationales of all prompts in one call.
  texts = [
    request.render(template, rationale=rationale)
    for request, samples in zip(requests, rationales, strict=True)
    for rationale in samples
  ]
  judge = judgments.JUDGE_FUNCTIONS[config.judgment]
  outputs, usage = judge(backend, texts, template.options)
  # 4. P(first is better) of each order.
  p_orders = collections.defaultdict(list)
  kept = collections.defaultdict(list)  # (rationale, P(first is better))
  cut_tokens = {request.row: request.cut_tokens for request in requests}
  remaining = iter(outputs)
  for request, samples in zip(requests, rationales, strict=True):
    judged = [next(remaining) for _ in samples]
    failures = ["empty rationale"] * ("" in samples)
    failures += [judgment.error for judgment in judged if judgment.error]
    if failures:
      errors[request.row] = failures[0]
      continue
    flipped = request.swap != (template.polarity == "flip")
    p_orders[request.row].append(_p_first(judged, flipped=flipped))
    kept[request.row] += [
      (text, _p_first([judgment], flipped=flipped))
      for text, judgment in zip(samples, judged, strict=True)
      if text is not None
    ]
  # 5. Preferences in the order of the pairs.
  result = []
  for row, pair in enumerate(pairs):
    if row in errors:
      option_probs.reject(quarantine, row=pair, reason=errors[row])
      continue
    values = p_orders[row]
    result.append(
      records.Preference(
        **records.to_row(pair),
        p_first=sum(values) / len(values) if values else 0.5,
        p_orders=tuple(values),
        rationales=tuple(text for text, _ in kept[row]),
        p_rationales=tuple(p for _, p in kept[row]),
        labeler=backend.name,
        cut_tokens=cut_tokens.get(row, 0),
      )
    )
  return result, rationale_usage + usage


def make_prompts(
  pairs: Sequence[records.Pair],
  config: PairwiseJudgeConfig,
  template: prompts.Template,
  tokenizer: protocols.Tokenizer | None,
) -> tuple[list[judge_prompts.JudgePrompt], dict[int, str]]:
  """Returns the prompts of a judge; see `judge_prompts.make_prompts`."""
  limit = config.max_context_tokens
  if tokenizer is not None and config.chain_of_thought:
    limit -= config.max_rationale_tokens
    limit -= len(tokenizer.encode("\n" + template.ending))
  return judge_prompts.make_prompts(
    pairs,
    template,
    both_orders=config.orders == "both",
    tokenizer=tokenizer,
    max_tokens=limit,
    cot=config.chain_of_thought,
  )


def expected_usage(
  pair: records.Pair,
  config: PairwiseJudgeConfig,
  tokenizer: protocols.Tokenizer,
) -> tuple[records.Usage, records.Usage]:
  """Returns the expected and the maximum usage of labelling a pair.

  The expected usage assumes rationales of the paper's mean length. With chain
  of thought a prompt is read twice per rationale: once to generate it, and once
  together with it to get the judgment.
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


def _generate_rationales(
  requests: Sequence[judge_prompts.JudgePrompt],
  backend: protocols.Backend,
  template: prompts.Template,
  config: PairwiseJudgeConfig,
) -> tuple[list[list[str | None]], records.Usage]:
  """Returns the rationales of each prompt, [None] without chain of thought."""
  if not config.chain_of_thought or not requests:
    return [[None] for _ in requests], records.Usage()
  texts = [request.render(template, cot=True) for request in requests]
  rationales = [[] for _ in requests]
  total = records.Usage()
  for sample in range(config.num_samples):
    digest = records.content_id("rationale", str(config.seed), str(sample))
    outputs, usage = judgments.complete(
      backend,
      texts,
      max_tokens=config.max_rationale_tokens,
      temperature=config.temperature,
      top_k=config.top_k,
      seed=int(digest[:7], 16),
      stop=template.ending.strip(),
    )
    total += usage
    for samples, output in zip(rationales, outputs, strict=True):
      samples.append(output.strip())
  return rationales, total


def _p_first(judged: Sequence[judgments.Judgment], *, flipped: bool) -> float:
  """Returns P(first is better) of one order: the mean over its judgments.

  flipped: the first option names the second response, or the worse one.
  """
  p_option = np.mean([judgment.probabilities[0] for judgment in judged])
  p = round(float(p_option) * _GRID) / _GRID
  return 1.0 - p if flipped else p
