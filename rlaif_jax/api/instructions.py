# SPDX-License-Identifier: Apache-2.0
"""Judge prompts with verdicts, from which `train_sft` makes a small labeler."""

from __future__ import annotations

import dataclasses
from typing import Sequence

import numpy as np

from rlaif_jax.core import records
from rlaif_jax.core import rng
from rlaif_jax.evaluation import gold
from rlaif_jax.text import prompts
from rlaif_jax.text import tokenizers


@dataclasses.dataclass(frozen=True, kw_only=True)
class InstructionConfig:
  """Judge prompts with verdicts, made from human labels and gold grades.

  Each pair gives one pairwise prompt, in an order drawn by its id, and one
  rating prompt for one of its candidates. Grades 1 and 10 are the 2 % and
  98 % quantiles of gold among the candidates. `data_dir` holds the
  vocabulary, `max_prompt_tokens` is what a prompt may take.
  """

  pairwise_template: str
  rating_template: str
  data_dir: str
  max_prompt_tokens: int


def make_instructions(
  labels: Sequence[records.Preference], config: InstructionConfig
) -> list[records.Example]:
  """Judge prompts with verdicts, shuffled by id."""
  pairwise = prompts.load(config.pairwise_template)
  rating = prompts.load(config.rating_template)
  tokenizer = tokenizers.load_tokenizer(config.data_dir)

  def fitted(template, context, candidates):
    return prompts.fit(
      template,
      context,
      candidates,
      tokenizer=tokenizer,
      max_tokens=config.max_prompt_tokens,
    ).context

  scores = gold.totals(
    [label.context for label in labels for _ in range(2)],
    [text for label in labels for text in (label.first, label.second)],
  )
  low, high = np.quantile(scores, [0.02, 0.98])
  rows = []
  for label, both in zip(labels, scores.reshape(-1, 2), strict=True):
    generator = rng.numpy_generator(0, f"instructions/{label.id}")
    swap, which = generator.integers(0, 2, size=2)
    texts = (label.first, label.second)
    context = fitted(pairwise, label.context, texts)
    prompt = prompts.render_pairwise(pairwise, context, *texts, swap=bool(swap))
    first_wins = (label.p_first > 0.5) != bool(swap)
    rows.append((f"{label.id}/pair", prompt, pairwise.options[not first_wins]))
    context = fitted(rating, label.context, (texts[which],))
    prompt = prompts.render_pointwise(rating, context, texts[which])
    grade = gold.grade(both[which], low, high)
    rows.append((f"{label.id}/rating", prompt, rating.options[grade - 1]))
  examples = [
    records.Example(id=name, context=prompt, response=verdict)
    for name, prompt, verdict in rows
  ]
  return sorted(examples, key=lambda e: records.content_id(e.id))
