# SPDX-License-Identifier: Apache-2.0
"""Scores single responses by a labeler or a reward, and takes the best of n.

A labeler's score is the expected score of d-RLAIF, the probability that a
response is harmless, how well it meets a rubric, or the probability that it
beats a fixed reference such as the human-written response, averaged over both
presentation orders. A reward is what `train_policy` would maximise.
"""

from __future__ import annotations

import dataclasses
import pathlib

from rlaif_jax.api import labelers
from rlaif_jax.api import response_scoring
from rlaif_jax.api import reward_loading
from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.data import response_pairs
from rlaif_jax.labeling import rating_file
from rlaif_jax.ops import best_of_n
from rlaif_jax.ops import statistics


def run(
  *,
  output_dir: str,
  responses_file: str,
  judge: response_scoring.Judge | None = None,
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
      no), RubricJudgeConfig (asks about each criterion), or
      PairwiseJudgeConfig, which compares each response with a reference; the
      score is then P(the response is better).
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
  quarantine = jsonl.Quarantine()
  scorer = response_scoring.load(
    judge,
    labeler,
    reference_file,
    reward,
    policy_dir,
    journal_file=f"{output_dir}/journal.jsonl",
    quarantine=quarantine,
  )
  directory = pathlib.Path(output_dir)
  rows = jsonl.read_records(records.Response, responses_file, jsonl.of_run())
  rows = rows[:limit] if limit else rows
  examples = [
    records.Example(
      id=f"{row.id}/{row.index}", context=row.context, response=row.text
    )
    for row in rows
  ]
  ratings, usage = rating_file.rate_in_chunks(
    directory / "ratings.partial.jsonl",
    examples,
    scorer.rate,
    judge=scorer.fingerprint,
    chunk_size=chunk_size,
    commit=scorer.commit,
  )
  jsonl.write_records(directory / "ratings.jsonl", ratings)
  best = response_pairs.best(rows, {row.id: row.score for row in ratings})
  if best:
    jsonl.write_records(directory / "responses.jsonl", best)
  return {
    "ratings": f"{output_dir}/ratings.jsonl",
    "kind": scorer.kind,
    **_summary([row.score for row in ratings], scorer.kind),
    "characters": dataclasses.asdict(
      statistics.mean([len(row.response) for row in ratings])
    ),
    "responses": len(rows),
    "answered": len(ratings),
    "labeler": scorer.name,
    **_best_of(len(rows), len(best)),
    **labelers.describe_usage(usage, scorer.prices),
    "quarantined": quarantine.write(directory / "quarantine.jsonl"),
    "quarantine_reasons": quarantine.counts(),
  }


def _best_of(responses: int, contexts: int) -> records.Row:
  """Returns n of the best of n, and a bound of its KL in nats."""
  if not contexts:
    return {}
  n = responses // contexts
  return {"best_of": n, "kl_bound": best_of_n.kl(n)}


def _summary(scores: list[float], kind: str) -> records.Row:
  """Returns the mean score, and the share above 1/2 of probabilities."""
  summary = {"score": dataclasses.asdict(statistics.mean(scores))}
  if kind in ("yesno", "reference"):
    above = sum(1.0 if s > 0.5 else 0.5 * (s == 0.5) for s in scores)
    share = statistics.wilson(above, len(scores))
    summary["share_above_half"] = dataclasses.asdict(share)
  return summary
