# SPDX-License-Identifier: Apache-2.0
"""Scores single responses: 1 to 10, harmless or not, or against a reference.

The score is the expected score of d-RLAIF, the probability that a response is
harmless, or the probability that it beats a fixed reference such as the
human-written response, averaged over both presentation orders.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib

from rlaif_jax.api import labelers
from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.labeling import pairwise_judge
from rlaif_jax.labeling import pointwise_judge
from rlaif_jax.labeling import rating_file
from rlaif_jax.labeling import reference_judge
from rlaif_jax.ops import statistics


def run(
  *,
  output_dir: str,
  responses_file: str,
  judge: (
    pointwise_judge.PointwiseJudgeConfig | pairwise_judge.PairwiseJudgeConfig
  ),
  labeler: labelers.LabelerConfig,
  reference_file: str = "",
  limit: int = 0,
  chunk_size: int = 256,
) -> records.Row:
  """Writes ratings.jsonl in the order of the responses, and the mean score.

  Args:
    output_dir: output directory; a second run resumes there.
    responses_file: responses.jsonl of the `sample` job.
    judge: PointwiseJudgeConfig (its template asks for a score, or for yes or
      no), or PairwiseJudgeConfig, which compares each response with a
      reference; the score is then P(the response is better).
    labeler: language model that scores.
    reference_file: JSONL of examples whose responses are the references,
      matched by id; with a PairwiseJudgeConfig.
    limit: number of responses to score; 0 scores all.
    chunk_size: number of responses that are stored at a time.
  """
  is_pairwise = isinstance(judge, pairwise_judge.PairwiseJudgeConfig)
  if is_pairwise != bool(reference_file):
    raise ValueError(
      f"score: judge is a {type(judge).__name__} and reference_file is "
      f"{reference_file!r}; set reference_file with a PairwiseJudgeConfig only"
    )
  labelers.check(labeler, judge)
  directory = pathlib.Path(output_dir)
  rows = jsonl.read_records(records.Response, responses_file, jsonl.of_run())
  rows = rows[:limit] if limit else rows
  examples = [
    records.Example(
      id=f"{row.id}/{row.index}", context=row.context, response=row.text
    )
    for row in rows
  ]
  loaded = labelers.load_labeler(
    labeler, journal_file=f"{output_dir}/journal.jsonl"
  )
  quarantine = jsonl.Quarantine()
  rate_fn = functools.partial(
    pointwise_judge.judge_responses,
    backend=loaded.backend,
    config=judge,
    tokenizer=loaded.tokenizer,
    quarantine=quarantine,
  )
  references: dict[str, str] = {}
  if is_pairwise:
    references = {
      row.id: row.response
      for row in jsonl.stream_records(
        records.Example, reference_file, jsonl.of_run()
      )
    }
    rate_fn = functools.partial(
      reference_judge.judge_responses,
      references=references,
      **rate_fn.keywords,
    )
  ratings, usage = rating_file.rate_in_chunks(
    directory / "ratings.partial.jsonl",
    examples,
    rate_fn,
    judge=records.content_id(
      judge.fingerprint(loaded.backend.name), *references.values()
    ),
    chunk_size=chunk_size,
    commit=loaded.commit,
  )
  jsonl.write_records(directory / "ratings.jsonl", ratings)
  kind = "reference" if is_pairwise else judge.load_template().kind
  return {
    "ratings": f"{output_dir}/ratings.jsonl",
    "kind": kind,
    **_summary([row.score for row in ratings], kind),
    "characters": dataclasses.asdict(
      statistics.mean([len(row.response) for row in ratings])
    ),
    "responses": len(rows),
    "answered": len(ratings),
    "labeler": loaded.backend.name,
    **labelers.describe_usage(usage, loaded.prices),
    "quarantined": quarantine.write(directory / "quarantine.jsonl"),
    "quarantine_reasons": quarantine.counts(),
  }


def _summary(scores: list[float], kind: str) -> records.Row:
  """Returns the mean score, and the share above 1/2 of probabilities."""
  summary = {"score": dataclasses.asdict(statistics.mean(scores))}
  if kind != "pointwise":
    above = sum(1.0 if s > 0.5 else 0.5 * (s == 0.5) for s in scores)
    share = statistics.wilson(above, len(scores))
    summary["share_above_half"] = dataclasses.asdict(share)
  return summary
