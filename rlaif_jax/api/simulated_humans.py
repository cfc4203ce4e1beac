# SPDX-License-Identifier: Apache-2.0
"""Simulated human labels of a file of pairs, and instructions made of them."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Sequence

import numpy as np

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.core import rng
from rlaif_jax.evaluation import gold
from rlaif_jax.labeling import pair_source
from rlaif_jax.text import prompts
from rlaif_jax.text import tokenizers


@dataclasses.dataclass(frozen=True, kw_only=True)
class InstructionConfig:
  """Instructions that teach a small model to label: judge prompts and answers.

  Each pair gives one pairwise prompt, in an order drawn by the id of the pair,
  and one pointwise prompt for one of its responses. The answers come from the
  human label and the gold reward; grades 1 and 10 are the 2 % and 98 %
  quantiles of gold among the responses.

  Fields:
    pairwise_template: template of the pairwise prompts.
    rating_template: template of the pointwise prompts.
    data_dir: directory of the vocabulary.
    max_prompt_tokens: limit of a prompt; contexts are truncated to it.
  """

  pairwise_template: str
  rating_template: str
  data_dir: str
  max_prompt_tokens: int


def label_pairs(
  pairs: pair_source.PairSource,
  humans: gold.HumanConfig,
  instructions: InstructionConfig | None = None,
  *,
  output_dir: str,
  reward: gold.GoldReward = gold.program,
) -> records.Row:
  """Writes labels.jsonl, and instructions.jsonl if `instructions` is given.

  Args:
    pairs: pairs to label.
    humans: noise of the raters.
    instructions: templates of the instructions.
    output_dir: directory of both files.
    reward: gold that the raters follow.

  Returns:
    The summary for the result file.
  """
  directory = pathlib.Path(output_dir)
  quarantine = jsonl.Quarantine()
  pairs.count(quarantine)
  labels, summary = gold.rate_pairs(list(pairs.read_valid()), humans, reward)
  if instructions is not None:
    rows = make_instructions(labels, instructions, reward)
    path = directory / "instructions.jsonl"
    summary["instructions"] = jsonl.write_records(path, rows)
  jsonl.write_records(directory / "labels.jsonl", labels)
  return {
    "labels": f"{output_dir}/labels.jsonl",
    **summary,
    "quarantined": quarantine.write(directory / "quarantine.jsonl"),
    "quarantine_reasons": quarantine.counts(),
  }


def make_instructions(
  labels: Sequence[records.Preference],
  config: InstructionConfig,
  reward: gold.GoldReward = gold.program,
) -> list[records.Example]:
  """Returns two instructions per label, shuffled by id."""
  pairwise = prompts.load(config.pairwise_template)
  pointwise = prompts.load(config.rating_template)
  tokenizer = tokenizers.load_tokenizer(config.data_dir)

  def truncate(template, context, responses):
    return prompts.fit(
      template,
      context,
      responses,
      tokenizer=tokenizer,
      max_tokens=config.max_prompt_tokens,
    ).context

  scores = reward(
    [label.context for label in labels for _ in range(2)],
    [text for label in labels for text in (label.first, label.second)],
  ).total
  low, high = np.quantile(scores, [0.02, 0.98])
  rows = []
  for label, pair_scores in zip(labels, scores.reshape(-1, 2), strict=True):
    generator = rng.numpy_generator(0, f"instructions/{label.id}")
    swap, which = generator.integers(0, 2, size=2)
    texts = (label.first, label.second)
    context = truncate(pairwise, label.context, texts)
    prompt = prompts.render_pairwise(pairwise, context, *texts, swap=bool(swap))
    first_wins = (label.p_first > 0.5) != bool(swap)
    rows.append((f"{label.id}/pair", prompt, pairwise.options[not first_wins]))
    context = truncate(pointwise, label.context, (texts[which],))
    prompt = prompts.render_pointwise(pointwise, context, texts[which])
    grade = gold.grade(pair_scores[which], low, high)
    rows.append((f"{label.id}/rating", prompt, pointwise.options[grade - 1]))
  examples = [
    records.Example(id=name, context=prompt, response=answer)
    for name, prompt, answer in rows
  ]
  return sorted(examples, key=lambda e: records.content_id(e.id))
