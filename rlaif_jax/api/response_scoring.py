# SPDX-License-Identifier: Apache-2.0
"""Loads what scores single responses: a judge with its labeler, or a reward."""

from __future__ import annotations

import dataclasses
import functools
from typing import Callable

from rlaif_jax.api import labelers
from rlaif_jax.api import reward_loading
from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.labeling import costs
from rlaif_jax.labeling import pairwise_judge
from rlaif_jax.labeling import pointwise_judge
from rlaif_jax.labeling import rating_file
from rlaif_jax.labeling import reference_judge
from rlaif_jax.labeling import rubric_judge
from rlaif_jax.model_io import pretrained

Judge = (
  pointwise_judge.PointwiseJudgeConfig
  | pairwise_judge.PairwiseJudgeConfig
  | rubric_judge.RubricJudgeConfig
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResponseScorer:
  """Scores responses.

  Attributes:
    kind: kind of score: that of the judge's template, "reference" or "reward".
    name: name of the labeler or reward, with the hash of its content.
    fingerprint: hash of everything that a score depends on.
    rate: returns ratings of responses and their usage.
    commit: see `labelers.Labeler`.
    prices: prices of its tokens.
  """

  kind: str
  name: str
  fingerprint: str
  rate: rating_file.RateFn
  commit: Callable[[bool], None] = lambda _: None
  prices: costs.Prices = costs.FREE


def load(
  judge: Judge | None,
  labeler: labelers.LabelerConfig,
  reference_file: str,
  reward: reward_loading.ScorerConfig | None,
  policy_dir: str,
  *,
  journal_file: str,
  quarantine: jsonl.Quarantine,
) -> ResponseScorer:
  """Loads a judge and its labeler, or a reward; see job `score`.

  Raises:
    ValueError: if not exactly one of them is given, or with other options than
      its own.
  """
  _check(judge, reference_file, reward, policy_dir)
  if reward is not None:
    devices = mesh_lib.make_mesh("data:-1")
    policy = pretrained.load(policy_dir, "language", devices)
    return ResponseScorer(
      kind="reward",
      name=reward.identity(),
      fingerprint=reward.fingerprint(),
      rate=reward_loading.make_rate_fn(reward, policy, devices),
    )
  labelers.check(labeler, judge)
  loaded = labelers.load_labeler(labeler, journal_file=journal_file)
  references = _references(reference_file)
  shared = {
    "backend": loaded.backend,
    "config": judge,
    "tokenizer": loaded.tokenizer,
    "quarantine": quarantine,
  }
  if isinstance(judge, pairwise_judge.PairwiseJudgeConfig):
    kind = "reference"
    rate = functools.partial(
      reference_judge.judge_responses, references=references, **shared
    )
  else:
    is_rubric = isinstance(judge, rubric_judge.RubricJudgeConfig)
    module = rubric_judge if is_rubric else pointwise_judge
    kind = judge.load_template().kind
    rate = functools.partial(module.judge_responses, **shared)
  return ResponseScorer(
    kind=kind,
    name=loaded.backend.name,
    fingerprint=records.content_id(
      judge.fingerprint(loaded.backend.name), *references.values()
    ),
    rate=rate,
    commit=loaded.commit,
    prices=loaded.prices,
  )


def _check(
  judge: Judge | None,
  reference_file: str,
  reward: reward_loading.ScorerConfig | None,
  policy_dir: str,
) -> None:
  if (judge is None) == (reward is None):
    raise ValueError(
      f"score: judge is {judge!r} and reward is {reward!r}; set exactly one: "
      "--gin.score.judge=@PointwiseJudgeConfig() or "
      "--gin.score.reward=@ScorerConfig()"
    )
  if (reward is None) == bool(policy_dir):
    raise ValueError(
      f"score: policy_dir is {policy_dir!r}; set it with a reward, whose "
      "tokens are the policy's, and with nothing else"
    )
  is_pairwise = isinstance(judge, pairwise_judge.PairwiseJudgeConfig)
  if is_pairwise != bool(reference_file):
    raise ValueError(
      f"score: judge is a {type(judge).__name__} and reference_file is "
      f"{reference_file!r}; set reference_file with a PairwiseJudgeConfig only"
    )


def _references(path: str) -> dict[str, str]:
  """Returns example id -> reference; empty without a file."""
  if not path:
    return {}
  rows = jsonl.stream_records(records.Example, path, jsonl.of_run())
  return {row.id: row.response for row in rows}
