# SPDX-License-Identifier: Apache-2.0
"""Writes preferences that train a reward model to read principles.

SALMON, Sun et al., arXiv 2310.05910.
"""

from __future__ import annotations

import pathlib

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.data import preferences
from rlaif_jax.labeling import principle_data
from rlaif_jax.labeling import principles as principles_lib
from rlaif_jax.text import tokenizers


def run(
  *,
  output_dir: str,
  labels_file: str,
  principles_file: str,
  reward_init: str,
  rows: principle_data.PrincipleDataConfig = (
    principle_data.PrincipleDataConfig()
  ),
) -> records.Row:
  """Writes labels.jsonl for `train_reward`.

  Args:
    output_dir: output directory.
    labels_file: labels.jsonl of job `label` with a PrincipleJudgeConfig.
    principles_file: principles of that judge.
    reward_init: language model that the reward model starts from.
    rows: how rows are drawn from the labels.
  """
  labels = preferences.read_labels(labels_file)
  found, counts = principle_data.rows(
    labels,
    principles_lib.read(principles_file),
    tokenizers.load_tokenizer(reward_init),
    rows,
  )
  if not found:
    raise ValueError(
      f"write_principle_data: no principle decides any of the {len(labels)} "
      f"labels of {labels_file}: both orders always disagree; use another "
      "labeler, or other principles"
    )
  jsonl.write_records(pathlib.Path(output_dir) / "labels.jsonl", found)
  return {
    "labels": f"{output_dir}/labels.jsonl",
    "pairs": len(labels),
    "rows": len(found),
    **counts,
  }
