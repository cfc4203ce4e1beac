# SPDX-License-Identifier: Apache-2.0
"""Grid of judges: templates, exemplars, chain of thought, likelihoods."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Iterator

from rlaif_jax.core import validation
from rlaif_jax.labeling import judges
from rlaif_jax.labeling import likelihood_judge
from rlaif_jax.labeling import pairwise_judge


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgeGridConfig(validation.Validated):
  """Judges to evaluate, and how the best one is selected.

  Fields:
    templates: names of pairwise templates; "{task}" is replaced by the task.
    shots: numbers of exemplars.
    chain_of_thought: values of `PairwiseJudgeConfig.chain_of_thought`.
    exemplar_trials: number of one-shot judges with a randomly drawn exemplar
      (ten in the paper), each with the first template.
    likelihoods: scores of `LikelihoodJudgeConfig`.
    before: text before the context, for likelihoods.
    between: text between context and response, for likelihoods.
    select_share: share of the pairs, by a hash of their texts, on which the
      best judge is selected. Its alignment is reported on the other pairs.
    only_best_on_rest: label the other pairs with the best judge only, at lower
      cost; the alignment of the other judges is not measured.
    max_context_tokens: limit of a prompt.
    max_rationale_tokens: limit of a rationale.
  """

  templates: tuple[str, ...] = ("{task}_base", "{task}_detailed")
  shots: tuple[int, ...] = (0,)
  chain_of_thought: tuple[bool, ...] = (False,)
  exemplar_trials: validation.NonNegativeInt = 0
  likelihoods: tuple[str, ...] = ()
  before: str = ""
  between: str = "\n\nSummary:\n"
  select_share: Annotated[float, validation.Bounds(ge=0, lt=1)] = 0.5
  only_best_on_rest: bool = False
  max_context_tokens: validation.PositiveInt = 4096
  max_rationale_tokens: validation.PositiveInt = 512

  def __post_init__(self):
    super().__post_init__()
    if self.only_best_on_rest and not self.select_share:
      raise ValueError(
        "JudgeGridConfig.only_best_on_rest is set and select_share is 0; set a "
        "share of pairs to select on, such as 0.2"
      )
    if not self.templates and not self.likelihoods:
      raise ValueError(
        "JudgeGridConfig.templates and likelihoods are empty; set one of them"
      )

  def judges(self, task: str) -> Iterator[tuple[str, judges.Judge]]:
    """Yields (name, config) of each judge in the paper's order."""
    limits = {
      "max_context_tokens": self.max_context_tokens,
      "max_rationale_tokens": self.max_rationale_tokens,
    }
    names = [template.format(task=task) for template in self.templates]
    for template in names:
      for cot in self.chain_of_thought:
        for shots in self.shots:
          config = pairwise_judge.PairwiseJudgeConfig(
            template=template,
            num_exemplars=shots,
            chain_of_thought=cot,
            **limits,
          )
          yield f"{template}{' + CoT' if cot else ''} {shots}-shot", config
    for trial in range(self.exemplar_trials):
      config = pairwise_judge.PairwiseJudgeConfig(
        template=names[0], num_exemplars=1, exemplar_seed=trial, **limits
      )
      yield f"{names[0]} 1-shot, exemplar {trial}", config
    for score in self.likelihoods:
      config = likelihood_judge.LikelihoodJudgeConfig(
        score=score,
        before=self.before,
        between=self.between,
        max_context_tokens=self.max_context_tokens,
      )
      yield score, config
