# SPDX-License-Identifier: Apache-2.0
"""Writes the data that train a judge on human labels: generative reward models.

Mahan et al., arXiv 2410.12832. `train_sft` on examples.jsonl is GenRM, or with
rationales CoT-GenRM and STaR-SFT. `train_dpo` on pairs.jsonl is STaR-DPO, or
without rationales DPO on the bare judgment. The trained model is a labeler. A
round of STaR labels a fresh part of the pairs with the latest judge.
"""

from __future__ import annotations

import pathlib

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.data import preferences
from rlaif_jax.engine import checkpoint
from rlaif_jax.labeling import judge_training
from rlaif_jax.labeling import pair_source
from rlaif_jax.labeling import pairwise_judge
from rlaif_jax.text import tokenizers


def run(
  *,
  output_dir: str,
  labels_file: str,
  judge: pairwise_judge.PairwiseJudgeConfig,
  judge_dir: str,
  judged_file: str = "",
  part: str = "0/1",
  max_per_prompt: int = 1,
  seed: int = 0,
) -> records.Row:
  """Writes examples.jsonl and pairs.jsonl, whose contexts are judge prompts.

  Args:
    output_dir: output directory.
    labels_file: human labels; those of 0.5 are left out.
    judge: settings of the judge that is trained, as for job `label`.
    judge_dir: language model that is trained, for its tokenizer.
    judged_file: labels.jsonl of job `label` for the same pairs and the same
      settings, with its rationales; set it with chain_of_thought only.
    part: "k/n" takes the k-th of n parts of the pairs, counted from 0.
    max_per_prompt: maximum number of chains, and of pairs of chains, of a
      prompt.
    seed: of the random orders of judgments without rationales.
  """
  check(judge, judge_dir, judged_file, max_per_prompt)
  source = pair_source.PairSource(pairs_file=labels_file, shard=part)
  kept = {pair.id for pair in source.read_valid()}
  labels = [r for r in preferences.read_labels(labels_file) if r.id in kept]
  tokenizer = tokenizers.load_tokenizer(judge_dir)
  quarantine = jsonl.Quarantine()
  if judge.chain_of_thought:
    judged = preferences.read_labels(judged_file)
    data = judge_training.chains(
      labels,
      {label.id: label for label in judged},
      judge,
      tokenizer,
      max_per_prompt=max_per_prompt,
      quarantine=quarantine,
    )
  else:
    data = judge_training.judgments(
      labels, judge, tokenizer, seed=seed, quarantine=quarantine
    )
  if not data.examples and not data.pairs:
    raise ValueError(
      f"write_judge_data: {len(labels)} labels of {labels_file} gave no "
      f"example and no pair ({data.counts}); sample more rationales "
      "(PairwiseJudgeConfig.num_samples), or use a labeler that is sometimes "
      "right"
    )
  directory = pathlib.Path(output_dir)
  jsonl.write_records(directory / "examples.jsonl", data.examples)
  jsonl.write_records(directory / "pairs.jsonl", data.pairs)
  contexts = [row.context for row in (*data.examples, *data.pairs)]
  responses = [row.response for row in data.examples]
  responses += [text for row in data.pairs for text in (row.first, row.second)]
  longest = [
    max(len(tokenizer.encode_plain(text)) for text in texts)
    for texts in (contexts, responses)
  ]
  return {
    "examples": f"{output_dir}/examples.jsonl",
    "pairs": f"{output_dir}/pairs.jsonl",
    "labels": len(labels),
    "num_examples": len(data.examples),
    "num_pairs": len(data.pairs),
    **data.counts,
    # What SequenceConfig needs so that nothing is truncated.
    "max_context": longest[0],
    "max_response": longest[1] + 1,
    "quarantined": quarantine.write(directory / "quarantine.jsonl"),
    "quarantine_reasons": quarantine.counts(),
  }


def check(
  judge: pairwise_judge.PairwiseJudgeConfig,
  judge_dir: str,
  judged_file: str,
  max_per_prompt: int,
) -> None:
  """Checks settings that do not fit together.

  Raises:
    ValueError: if they do not.
  """
  if bool(judged_file) != judge.chain_of_thought:
    raise ValueError(
      f"write_judge_data: judged_file is {judged_file!r} and "
      f"PairwiseJudgeConfig.chain_of_thought {judge.chain_of_thought}; "
      "rationales come from labels of job `label`: set both or neither"
    )
  if max_per_prompt < 1:
    raise ValueError(
      f"write_judge_data: max_per_prompt is {max_per_prompt}; it is 1 or more"
    )
  if not judge.chain_of_thought:
    return
  if judge.orders != "both":
    raise ValueError(
      f"PairwiseJudgeConfig.orders is {judge.orders!r}; chains are trained in "
      "both orders, so that the judge learns no position: use orders = 'both'"
    )
  chat = checkpoint.read_description(judge_dir)["chat"]
  if any(chat):
    raise ValueError(
      f"{judge_dir} has a chat template: it writes a rationale in its own "
      "turn, and the judge reads it in the user's. Use chain_of_thought = "
      "False, or a base model without a template"
    )
