# SPDX-License-Identifier: Apache-2.0
"""Scores single responses by a labeler or a reward, and takes the best of n.

A labeler's score is the expected score of d-RLAIF, the probability that a
response is harmless, or the probability that it beats a fixed reference such as
the human-written response, averaged over both presentation orders. A reward is
what `train_policy` would maximise.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from typing import Mapping, Sequence

from rlaif_jax.api import labelers
from rlaif_jax.api import reward_loading
from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.labeling import pairwise_judge
from rlaif_jax.labeling import pointwise_judge
from rlaif_jax.labeling import rating_file
from rlaif_jax.labeling import reference_judge
from rlaif_jax.model_io import pretrained
from rlaif_jax.ops import best_of_n
from rlaif_jax.ops import statistics

Judge = (
  pointwise_judge.PointwiseJudgeConfig | pairwise_judge.PairwiseJudgeConfig
)


def run(
  *,
  output_dir: str,
  responses_file: str,
  judge: Judge | None = None,
  labeler: labelers.LabelerConfig = labelers.NO_LABELER,
  reference_file: str = "",
  reward: reward_loading.ScorerConfig | None = None,
  policy_dir: str = "",
  limit: int = 0,
  chunk_size: int = 256,
) -> records.Row:
  """Writes ratings.jsonl in the order of the responses, and the mean score.

  If contexts have several responses, the best of each is written to
  responses.jsonl (best-of-n sampling).

  Args:
    output_dir: output directory; a second run resumes there.
    responses_file: responses.jsonl of the `sample` job.
    judge: PointwiseJudgeConfig (its template asks for a score, or for yes or
      no), or PairwiseJudgeConfig, which compares each response with a
      reference; the score is then P(the response is better).
    labeler: language model that scores, with a judge.
    reference_file: JSONL of examples whose responses are the references,
      matched by id; with a PairwiseJudgeConfig.
    reward: a reward model, an ensemble or a labeler as `train_policy` has them,
      in place of a judge.
    policy_dir: finished language model with the tokens of the reward: the
      policy that was sampled.
    limit: number of responses to score; 0 scores all.
    chunk_size: number of responses that are stored at a time.
  """
  _check(judge, reference_file, reward, policy_dir)
  directory = pathlib.Path(output_dir)
  rows = jsonl.read_records(records.Response, responses_file, jsonl.of_run())
  rows = rows[:limit] if limit else rows
  examples = [
    records.Example(
      id=f"{row.id}/{row.index}", context=row.context, response=row.text
    )
    for row in rows
  ]
  quarantine = jsonl.Quarantine()
  commit, prices = (lambda _: None), None
  if reward is not None:
    devices = mesh_lib.make_mesh("data:-1")
    policy = pretrained.load(policy_dir, "language", devices)
    rate_fn = reward_loading.make_rate_fn(reward, policy, devices)
    kind, name = "reward", reward.identity()
    key = records.content_id(repr(reward), name)
  else:
    labelers.check(labeler, judge)
    loaded = labelers.load_labeler(
      labeler, journal_file=f"{output_dir}/journal.jsonl"
    )
    references = _references(reference_file)
    kind, rate_fn = _judge_rate_fn(judge, loaded, references, quarantine)
    name, commit, prices = loaded.backend.name, loaded.commit, loaded.prices
    key = records.content_id(judge.fingerprint(name), *references.values())
  ratings, usage = rating_file.rate_in_chunks(
    directory / "ratings.partial.jsonl",
    examples,
    rate_fn,
    judge=key,
    chunk_size=chunk_size,
    commit=commit,
  )
  jsonl.write_records(directory / "ratings.jsonl", ratings)
  return {
    "ratings": f"{output_dir}/ratings.jsonl",
    "kind": kind,
    **_summary([row.score for row in ratings], kind),
    "characters": dataclasses.asdict(
      statistics.mean([len(row.response) for row in ratings])
    ),
    "responses": len(rows),
    "answered": len(ratings),
    "labeler": name,
    **_write_best(directory, rows, {row.id: row.score for row in ratings}),
    **(labelers.describe_usage(usage, prices) if prices else {}),
    "quarantined": quarantine.write(directory / "quarantine.jsonl"),
    "quarantine_reasons": quarantine.counts(),
  }


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


def _judge_rate_fn(
  judge: Judge,
  loaded: labelers.Labeler,
  references: dict[str, str],
  quarantine: jsonl.Quarantine,
) -> tuple[str, rating_file.RateFn]:
  """Returns the kind of score of a judge, and the function that scores."""
  shared = {
    "backend": loaded.backend,
    "config": judge,
    "tokenizer": loaded.tokenizer,
    "quarantine": quarantine,
  }
  if isinstance(judge, pairwise_judge.PairwiseJudgeConfig):
    return "reference", functools.partial(
      reference_judge.judge_responses, references=references, **shared
    )
  return judge.load_template().kind, functools.partial(
    pointwise_judge.judge_responses, **shared
  )


def _write_best(
  directory: pathlib.Path,
  rows: Sequence[records.Response],
  scores: Mapping[str, float],
) -> records.Row:
  """Writes the response with the highest score of each context.

  Their log-probs are set to 0.0: they are not those of the best of n.
  """
  by_context: dict[str, list[records.Response]] = {}
  for row in rows:
    if f"{row.id}/{row.index}" in scores:
      by_context.setdefault(row.id, []).append(row)
  n = min(map(len, by_context.values()), default=0)
  if n < 2:
    return {}
  best = [
    dataclasses.replace(
      max(own, key=lambda row: scores[f"{row.id}/{row.index}"]),
      log_prob=0.0,
      ref_log_prob=0.0,
    )
    for own in by_context.values()
  ]
  jsonl.write_records(directory / "responses.jsonl", best)
  return {"best_of": n, "kl_bound": best_of_n.kl(n)}


def _summary(scores: list[float], kind: str) -> records.Row:
  """Returns the mean score, and the share above 1/2 of probabilities."""
  summary = {"score": dataclasses.asdict(statistics.mean(scores))}
  if kind not in ("pointwise", "reward"):
    above = sum(1.0 if s > 0.5 else 0.5 * (s == 0.5) for s in scores)
    share = statistics.wilson(above, len(scores))
    summary["share_above_half"] = dataclasses.asdict(share)
  return summary
