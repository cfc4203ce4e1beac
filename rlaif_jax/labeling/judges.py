# SPDX-License-Identifier: Apache-2.0
"""Labels pairs with any kind of judge, chosen by the type of its config."""

from __future__ import annotations

from types import ModuleType
from typing import Sequence

from rlaif_jax.core import jsonl
from rlaif_jax.core import protocols
from rlaif_jax.core import records
from rlaif_jax.labeling import function_judge
from rlaif_jax.labeling import likelihood_judge
from rlaif_jax.labeling import pairwise_judge
from rlaif_jax.labeling import principle_judge
from rlaif_jax.labeling import rubric_judge

# Config of a judge of pairs.
Judge = (
  pairwise_judge.PairwiseJudgeConfig
  | likelihood_judge.LikelihoodJudgeConfig
  | rubric_judge.RubricJudgeConfig
  | principle_judge.PrincipleJudgeConfig
  | function_judge.FunctionJudgeConfig
)
# Modules with `judge_pairs` and `expected_usage`, by type of the config.
MODULES: dict[type, ModuleType] = {
  pairwise_judge.PairwiseJudgeConfig: pairwise_judge,
  likelihood_judge.LikelihoodJudgeConfig: likelihood_judge,
  rubric_judge.RubricJudgeConfig: rubric_judge,
  principle_judge.PrincipleJudgeConfig: principle_judge,
  function_judge.FunctionJudgeConfig: function_judge,
}


def judge_pairs(
  pairs: Sequence[records.Pair],
  backend: protocols.Backend | protocols.LikelihoodBackend | None,
  config: Judge,
  *,
  tokenizer: protocols.Tokenizer | None = None,
  quarantine: jsonl.Quarantine | None = None,
) -> tuple[list[records.Preference], records.Usage]:
  """Labels pairs in memory with P(first is better).

      labels, usage = judge_pairs(pairs, model.backend(), PairwiseJudgeConfig())

  Args:
    pairs: pairs to label.
    backend: a `protocols.LikelihoodBackend` for a likelihood judge, a
      `protocols.Backend` for any other. A function judge takes any, or None.
    config: settings of the judge.
    tokenizer: tokenizer of the backend, used to truncate long contexts; None
      truncates nothing.
    quarantine: receives pairs without a valid judgment. None raises for the
      first such pair.

  Returns:
    Preferences in the order of `pairs` without the quarantined ones, and the
    tokens used.

  Raises:
    ValueError: the config does not fit its template, or a pair has no valid
      judgment and `quarantine` is None.
  """
  return MODULES[type(config)].judge_pairs(
    pairs, backend, config, tokenizer=tokenizer, quarantine=quarantine
  )


def expected_usage(
  pair: records.Pair, config: Judge, tokenizer: protocols.Tokenizer
) -> tuple[records.Usage, records.Usage]:
  """Returns the expected and the maximum usage of labelling a pair."""
  return MODULES[type(config)].expected_usage(pair, config, tokenizer)
