# SPDX-License-Identifier: Apache-2.0
"""Training data of a generative reward model: a judge that is a language model.

Mahan et al., arXiv 2410.12832. A bare judgment is the option that the human
label asks for (GenRM, eq. 7). A chain is a rationale with the judgment that
follows it. Chains with the right judgment are examples (eq. 8), and pairs of a
right and a wrong chain are preferences (eq. 9). The context of each is the
prompt of the pairwise judge, so that the trained model is a labeler as it is.
"""

from __future__ import annotations

import collections
import dataclasses
from typing import Mapping, Sequence

from rlaif_jax.core import jsonl
from rlaif_jax.core import protocols
from rlaif_jax.core import records
from rlaif_jax.labeling import judge_prompts
from rlaif_jax.labeling import option_probs
from rlaif_jax.labeling import pairwise_judge
from rlaif_jax.text import prompts

# Labeler of preferences between judgments: the truth that they are checked by.
_LABELER = "judgment"


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgeData:
  """Training data of a judge.

  Attributes:
    examples: judge prompts with right responses, for SFT.
    pairs: judge prompts with a right response first and a wrong one second, for
      DPO.
    counts: numbers for the result file.
  """

  examples: list[records.Example]
  pairs: list[records.Preference]
  counts: dict[str, int]


def judgments(
  labels: Sequence[records.Preference],
  config: pairwise_judge.PairwiseJudgeConfig,
  tokenizer: protocols.Tokenizer | None,
  *,
  seed: int,
  quarantine: jsonl.Quarantine,
) -> JudgeData:
  """Returns the option that each label asks for as the response.

  Labels of 0.5 ask for none and are left out.

  Args:
    labels: human labels.
    config: settings of the judge. With orders = "both" each pair is shown in
      both orders, with "first" in one at random.
    tokenizer: truncates contexts; None truncates nothing.
    seed: of the random orders.
    quarantine: receives pairs that have no prompt.
  """
  decided = [label for label in labels if label.p_first != 0.5]
  if config.orders == "first":
    decided = [_in_random_order(label, seed) for label in decided]
  template = config.load_template()
  requests = _requests(decided, config, template, tokenizer, quarantine)
  examples, pairs = [], []
  for request in requests:
    first_wins = decided[request.row].p_first > 0.5
    context = request.render(template)
    right, wrong = (
      _option(template, request, first_wins == wanted)
      for wanted in (True, False)
    )
    name = f"{request.pair.id}/{int(request.swap)}"
    examples.append(_example(name, context, right))
    pairs.append(_pair(name, context, right, wrong))
  return JudgeData(
    examples=examples,
    pairs=pairs,
    counts={
      "ties": len(labels) - len(decided),
      "prompts": len(requests),
    },
  )


def chains(
  labels: Sequence[records.Preference],
  judged: Mapping[str, records.Preference],
  config: pairwise_judge.PairwiseJudgeConfig,
  tokenizer: protocols.Tokenizer | None,
  *,
  max_per_prompt: int,
  quarantine: jsonl.Quarantine,
) -> JudgeData:
  """Returns rationales and the judgments that follow them as responses.

  The judgment of a chain is the more probable option, where the paper samples
  it: rationales after which both options are equally probable are left out, and
  a right and a wrong chain differ in their rationales too. A prompt whose
  chains are all right, or all wrong, has no pair.

  Args:
    labels: human labels.
    judged: labels of the same pairs with rationales, by id, in both orders.
    config: settings of the judge that wrote the rationales.
    tokenizer: truncates contexts; None truncates nothing.
    max_per_prompt: maximum number of examples and of pairs of a prompt.
    quarantine: receives pairs that have no prompt.

  Raises:
    ValueError: a judged pair has other texts than its label, or no rationales
      in both orders.
  """
  decided = [label for label in labels if label.p_first != 0.5]
  found = [label for label in decided if label.id in judged]
  template = config.load_template()
  requests = _requests(found, config, template, tokenizer, quarantine)
  examples, pairs = [], []
  counts = collections.Counter(
    ties=len(labels) - len(decided), unjudged=len(decided) - len(found)
  )
  for request in requests:
    label = found[request.row]
    sides: dict[bool, list[str]] = {True: [], False: []}
    for text, p_first in _of_order(judged[label.id], label, request.swap):
      if p_first == 0.5:
        counts["undecided_chains"] += 1
        continue
      option = _option(template, request, p_first > 0.5)
      side = sides[(p_first > 0.5) == (label.p_first > 0.5)]
      side.append(f"{text}\n{template.ending}{option}")
    right, wrong = (list(dict.fromkeys(sides[k])) for k in (True, False))
    counts.update(
      prompts=1,
      right_chains=len(sides[True]),
      wrong_chains=len(sides[False]),
      prompts_with_pairs=bool(right and wrong),
    )
    context = request.render(template, cot=True)
    name = f"{request.pair.id}/{int(request.swap)}"
    for i, chain in enumerate(right[:max_per_prompt]):
      examples.append(_example(f"{name}/{i}", context, chain))
    for i, (one, other) in enumerate(
      list(zip(right, wrong, strict=False))[:max_per_prompt]
    ):
      pairs.append(_pair(f"{name}/{i}", context, one, other))
  return JudgeData(examples=examples, pairs=pairs, counts=dict(counts))


def _in_random_order(
  label: records.Preference, seed: int
) -> records.Preference:
  if not records.is_odd(records.content_id("order", str(seed), label.id)):
    return label
  return dataclasses.replace(
    label, first=label.second, second=label.first, p_first=1.0 - label.p_first
  )


def _requests(
  labels: Sequence[records.Preference],
  config: pairwise_judge.PairwiseJudgeConfig,
  template: prompts.Template,
  tokenizer: protocols.Tokenizer | None,
  quarantine: jsonl.Quarantine,
) -> list[judge_prompts.JudgePrompt]:
  """Returns the prompts, and quarantines pairs without one."""
  pairs = [records.pair_of_row(records.to_row(label)) for label in labels]
  requests, errors = pairwise_judge.make_prompts(
    pairs, config, template, tokenizer
  )
  for row, reason in errors.items():
    option_probs.reject(quarantine, row=pairs[row], reason=reason)
  return requests


def _of_order(
  judged: records.Preference, label: records.Preference, swap: bool
) -> list[tuple[str, float]]:
  """Returns the rationales of one order, with P(first is better) of each."""
  if (judged.first, judged.second) != (label.first, label.second):
    raise ValueError(
      f"the pair {label.id} has other texts, or another order, where it was "
      "judged than in the labels; judge the pairs of the labels file"
    )
  count = len(judged.p_rationales)
  if not count or count != len(judged.rationales) or count % 2:
    raise ValueError(
      f"the pair {label.id} was judged with {len(judged.rationales)} "
      f"rationales and {count} judgments; run the label job with "
      "PairwiseJudgeConfig.chain_of_thought = True and orders = 'both'"
    )
  half = slice(count // 2, None) if swap else slice(count // 2)
  return list(
    zip(judged.rationales[half], judged.p_rationales[half], strict=True)
  )


def _option(
  template: prompts.Template,
  request: judge_prompts.JudgePrompt,
  first_wins: bool,
) -> str:
  """Returns the option that says that the pair's first response is better."""
  names_second = first_wins == request.swap
  return template.options[names_second != (template.polarity == "flip")]


def _example(name: str, context: str, response: str) -> records.Example:
  return records.Example(id=name, context=context, response=response)


def _pair(
  name: str, context: str, right: str, wrong: str
) -> records.Preference:
  return records.Preference(
    id=name,
    context=context,
    first=right,
    second=wrong,
    p_first=1.0,
    labeler=_LABELER,
  )
