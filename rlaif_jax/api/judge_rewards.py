# SPDX-License-Identifier: Apache-2.0
"""Loads a judge that reads texts as the reward of a policy run."""

from __future__ import annotations

import dataclasses
from typing import Callable, Sequence

from rlaif_jax.api import labelers
from rlaif_jax.core import records
from rlaif_jax.core import validation
from rlaif_jax.data import converters
from rlaif_jax.labeling import rubric_judge
from rlaif_jax.labeling import rubrics as rubrics_lib
from rlaif_jax.model_io import pretrained


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgeRewardConfig(validation.Validated):
  """A rubric judge as the reward: `Rubric.score` times `factor`.

  Each rollout is decoded on the host, and all questions about its responses
  are one call of the labeler, which may have another vocabulary than the
  policy or be an endpoint. A context of the rubrics file is found by what the
  policy reads of it.

  Fields:
    judge: settings of the judge.
    labeler: language model that answers.
    factor: of the score, which sets the unit in which beta weighs the KL.
  """

  judge: rubric_judge.RubricJudgeConfig
  labeler: labelers.LabelerConfig
  factor: validation.PositiveFloat = 1.0


def text_function(
  config: JudgeRewardConfig, policy: pretrained.PretrainedModel
) -> Callable[[Sequence[str], Sequence[str]], list[float]]:
  """Returns (contexts, responses) -> rewards.

  Raises:
    ValueError: the rubrics file is invalid, or has no rubric for contexts
      without one of their own.
  """
  labelers.check(config.labeler, config.judge)
  rubrics = rubrics_of_policy(config.judge.rubrics_file, policy)
  loaded = labelers.load_labeler(config.labeler, journal_file="")

  def values(contexts: Sequence[str], responses: Sequence[str]) -> list[float]:
    ratings, _ = rubric_judge.judge_responses(
      [
        records.Example(id=str(i), context=context, response=response)
        for i, (context, response) in enumerate(
          zip(contexts, responses, strict=True)
        )
      ],
      loaded.backend,
      config.judge,
      tokenizer=loaded.tokenizer,
      rubrics=rubrics,
    )
    return [config.factor * rating.score for rating in ratings]

  return values


def rubrics_of_policy(
  path: str, policy: pretrained.PretrainedModel
) -> rubrics_lib.Rubrics:
  """Returns rubrics that are found by the contexts as the policy reads them.

  Raises:
    ValueError: a context could be left without a rubric, which would stop the
      run at the step that samples it; two contexts with different rubrics begin
      with the same max_context tokens.
  """
  rubrics = rubrics_lib.read(path)
  if not rubrics.has_default:
    raise ValueError(
      f"{path} has no rubric for contexts without one of their own, which RL "
      "may sample; add a row without a context, such as "
      '{"criteria": [{"text": "Is it one sentence?"}]}'
    )
  return rubrics_lib.Rubrics(rubrics.rows, key=policy_texts(policy))


def policy_texts(
  policy: pretrained.PretrainedModel,
) -> Callable[[Sequence[str]], list[str]]:
  """Returns a function from contexts to what a policy reads of them."""

  def texts(contexts: Sequence[str]) -> list[str]:
    arrays, _ = converters.encode_prompts(
      contexts, policy.tokenizer, policy.sequence
    )
    return [
      policy.tokenizer.decode(row[valid].tolist())
      for row, valid in zip(arrays.context, arrays.context_valid, strict=True)
    ]

  return texts
