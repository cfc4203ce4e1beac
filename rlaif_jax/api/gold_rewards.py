# SPDX-License-Identifier: Apache-2.0
"""The gold reward of a job: the program, nearness to human lines, or yours."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from typing import Callable, Sequence

import numpy as np

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.core import user_functions
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


# A metric of your own: (contexts, responses) -> one number per response.
Metric = Callable[[Sequence[str], Sequence[str]], Sequence[float]]
GoldSource = NearnessSource | Metric | None


def load(source: GoldSource) -> gold.GoldReward:
  """Returns the gold reward that a job uses; of None, `gold.program`.

  Raises:
    ValueError: the encoder is missing or not supported, the directory has no
      examples, or a document has two human lines.
  """
  if source is None:
    return gold.program
  if not isinstance(source, NearnessSource):
    return functools.partial(_scores, source)
  lines = read_human_lines(source.references_dir)
  encoder = sentence_encoder.load(source.encoder_dir)
  return nearness.reward(lines, encoder.embed, source.weights)


def _scores(
  metric: Metric, contexts: Sequence[str], responses: Sequence[str]
) -> gold.GoldScores:
  """Returns the values of a metric; it has no parts."""
  values = np.asarray(metric(contexts, responses), np.float64)
  if values.shape != (len(responses),) or not np.isfinite(values).all():
    raise ValueError(
      f"{user_functions.name_of(metric)} returned shape {values.shape} for "
      f"{len(responses)} responses; it must return one finite number each"
    )
  return gold.GoldScores(total=values, parts={})


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
