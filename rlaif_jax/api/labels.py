# SPDX-License-Identifier: Apache-2.0
"""Labels pairs in memory with a language model as the judge."""

from __future__ import annotations

from typing import Any, Sequence

from rlaif_jax.core import protocols
from rlaif_jax.core import records
from rlaif_jax.labeling import pairwise_judge
from rlaif_jax.model_io import pretrained

# Room for the judgment after the longest prompt.
_JUDGMENT_TOKENS = 8


class PairwiseJudge:
  """A labeler that compares two responses (paper, section 2.1).

  Args:
    labeler: a language model, or any `protocols.Backend`.
    template: name or .toml path of a pairwise template.
    **options: fields of `pairwise_judge.PairwiseJudgeConfig`, such as
      `chain_of_thought`, `orders` or `num_samples`.
  """

  def __init__(
    self,
    labeler: pretrained.PretrainedModel | protocols.Backend,
    template: str = "summary_base",
    **options: Any,
  ):
    self.tokenizer: protocols.Tokenizer | None = None
    if isinstance(labeler, pretrained.PretrainedModel):
      self.backend: protocols.Backend = labeler.backend()
      self.tokenizer = labeler.tokenizer
      longest = labeler.config.max_length - _JUDGMENT_TOKENS
      options.setdefault("max_context_tokens", min(4096, longest))
    else:
      self.backend = labeler
    self.config = pairwise_judge.PairwiseJudgeConfig(
      template=template, **options
    )


def label(
  pairs: Sequence[records.Pair], judge: PairwiseJudge
) -> list[records.Preference]:
  """Returns the pairs with P(first is better), in the same order.

  Raises:
    ValueError: if a pair gets no valid judgment.
  """
  found, _ = pairwise_judge.judge_pairs(
    pairs, judge.backend, judge.config, tokenizer=judge.tokenizer
  )
  return found
