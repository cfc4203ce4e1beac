# SPDX-License-Identifier: Apache-2.0
"""The gold reward of a job: the program, or nearness to human lines."""

from __future__ import annotations

import dataclasses
import pathlib

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.core import validation
from rlaif_jax.evaluation import gold
from rlaif_jax.evaluation import nearness
from rlaif_jax.model_io import sentence_encoder


@dataclasses.dataclass(frozen=True, kw_only=True)
class NearnessSource(validation.Validated):
  """Files and weights of `evaluation.nearness` as the gold reward.

  Fields:
    encoder_dir: Hugging Face directory of a BERT sentence encoder.
    references_dir: directory of JSONL files of examples, such as
      DATA_DIR/TASK of the `prepare` job. Their responses are the human lines.
    weights: weights of the parts.
  """

  encoder_dir: str
  references_dir: str
  weights: nearness.NearnessConfig = nearness.NearnessConfig()


def load(source: NearnessSource | None) -> gold.GoldReward:
  """Returns the gold reward that a job uses; of None, `gold.program`.

  Raises:
    ValueError: the encoder is missing or not supported, the directory has no
      examples, or a document has two human lines.
  """
  if source is None:
    return gold.program
  lines = read_human_lines(source.references_dir)
  encoder = sentence_encoder.load(source.encoder_dir)
  return nearness.reward(lines, encoder.embed, source.weights)


def read_human_lines(directory: str) -> dict[str, str]:
  """Returns document -> human line, of all examples of a directory.

  Raises:
    ValueError: there are none, or a document has two different lines.
  """
  lines: dict[str, str] = {}
  for path in sorted(pathlib.Path(directory).glob("*.jsonl")):
    for row in jsonl.stream_records(records.Example, path):
      known = lines.setdefault(row.context, row.response)
      if known != row.response:
        raise ValueError(
          f"{path}: the document of example {row.id} has the lines {known!r} "
          f"and {row.response!r}; keep one of these examples"
        )
  if not lines:
    raise ValueError(
      f"NearnessSource.references_dir is {directory!r}, which has no *.jsonl "
      "of examples; name the task's folder in the output of the prepare job, "
      "such as runs/data/debian_synopsis"
    )
  return lines
