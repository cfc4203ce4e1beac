# SPDX-License-Identifier: Apache-2.0
"""Rounds of online DPO: their contexts, samples and labels."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Annotated, Callable, Literal, Sequence

import numpy as np

from rlaif_jax.api import online_preferences
from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.core import rng
from rlaif_jax.core import validation
from rlaif_jax.data import converters
from rlaif_jax.data import response_pairs
from rlaif_jax.engine import checkpoint
from rlaif_jax.engine import decode
from rlaif_jax.engine import loop
from rlaif_jax.ops import pair_choice


@dataclasses.dataclass(frozen=True, kw_only=True)
class RoundsConfig(validation.Validated):
  """Rounds of sampling, judging and training; defaults of arXiv:2405.07863.

  Attributes:
    rounds: number of rounds.
    contexts: contexts per round; each round takes new ones until all have been
      used.
    num_samples: samples per context.
    low_temperature: temperature of half of the samples; 0: all have the
      temperature of `sampling`.
    choose: method that selects two samples as the pair; see
      `ops.pair_choice.choose`.
    length_penalty: penalty per token on a sample's score before the selection.
    reference: reference of the KL, "initial" (as in the paper) or "previous",
      the policy at the start of the round.
    sampling: temperature and length of the samples.
  """

  rounds: validation.PositiveInt = 3
  contexts: validation.PositiveInt = 1024
  num_samples: Annotated[int, validation.Bounds(ge=2)] = 8
  low_temperature: validation.NonNegativeFloat = 0.7
  choose: Annotated[str, validation.OneOf(pair_choice.CHOICES)] = "max_min"
  length_penalty: float = 0.0
  reference: Literal["initial", "previous"] = "initial"
  sampling: decode.SamplingConfig

  def parts(self) -> dict[str, tuple[int, decode.SamplingConfig]]:
    """Returns the samples of a round by name: their number and sampling."""
    cool = self.num_samples // 2 if self.low_temperature else 0
    parts = {"warm": (self.num_samples - cool, self.sampling)}
    if cool:
      parts["cool"] = (
        cool,
        dataclasses.replace(self.sampling, temperature=self.low_temperature),
      )
    return parts


def check_lengths(policy_dir: str, sampling: decode.SamplingConfig) -> None:
  """Checks that a truncated sample is as long as the longest trained response.

  Raises:
    ValueError: if it is not. A shorter truncated sample would be trained as if
      the policy had ended it.
  """
  sequence = checkpoint.read_description(policy_dir)["sequence"]
  if sampling.max_tokens != sequence["max_response"]:
    raise ValueError(
      f"SamplingConfig.max_tokens is {sampling.max_tokens} and {policy_dir} "
      f"has max_response {sequence['max_response']}; set max_tokens to that "
      "number, so that truncated samples are not trained as complete ones"
    )


def write_contexts(
  path: pathlib.Path,
  examples: Sequence[records.Example],
  rounds: RoundsConfig,
  *,
  seed: int,
  name: str,
  number: int,
) -> None:
  """Writes the examples of a round.

  Args:
    path: JSONL of examples.
    examples: all examples.
    rounds: number of contexts per round.
    seed: seed of the run.
    name: name of the run.
    number: number of the round, from 1.
  """
  rows = converters.epoch_rows(
    num_rows=len(examples),
    batch_size=rounds.contexts,
    seed=seed,
    name=f"{name}/contexts",
    step=number - 1,
  )
  # A round that crosses an epoch may draw a context twice.
  part = [examples[i] for i in dict.fromkeys(rows.tolist())]
  jsonl.write_records(path, part)


def sample_seed(seed: int, name: str, part: str, number: int) -> int:
  """Returns the seed of one part of a round's samples."""
  generator = rng.numpy_generator(seed, f"{name}/{part}", number)
  return int(generator.integers(2**31))


def label_samples(
  folder: pathlib.Path,
  rounds: RoundsConfig,
  score: Callable[[online_preferences.Groups], online_preferences.SampleScores],
  *,
  train: loop.TrainConfig,
  name: str,
  number: int,
) -> records.Row:
  """Judges the samples of a round, and writes its labels.jsonl.

  Args:
    folder: directory of the round.
    rounds: selection of the pairs.
    score: returns the scores of groups of samples, one group per context.
    train: seed of the run.
    name: name of the run.
    number: number of the round, from 1.

  Returns:
    Numbers to report.
  """
  samples = [
    row
    for part in rounds.parts()
    for row in jsonl.read_records(
      records.Response, folder / part / "responses.jsonl"
    )
  ]
  groups = list(response_pairs.by_context(samples).values())
  found = score(groups)
  labels, numbers = online_preferences.choose_pairs(
    groups,
    found,
    choose=rounds.choose,
    length_penalty=rounds.length_penalty,
    generator=rng.numpy_generator(train.seed, f"{name}/choose", number),
  )
  jsonl.write_records(folder / "labels.jsonl", labels)
  if found.win_probs is None:  # The mean win rate is always a half.
    warm, _ = rounds.parts()["warm"]
    numbers["score"] = float(np.mean(found.scores[:, :warm]))
  return {"contexts": len(groups), **numbers}


def check_pairs(row: records.Row, folder: pathlib.Path) -> None:
  """Checks that a round has pairs to train on.

  Raises:
    ValueError: if all pairs of the round are ties.
  """
  if not row["pairs"]:
    raise ValueError(
      f"{folder.name}: all samples of each context tie, so there is no pair to "
      f"train on; read {folder}/warm/responses.jsonl. If the policy gives the "
      "same response to every context, lower epochs or learning_rate"
    )
