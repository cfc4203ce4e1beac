# SPDX-License-Identifier: Apache-2.0
"""Scores single responses: 1 to 10, harmless or not, or against a reference.

The labeler's own view of a policy, one response at a time: the expected score
of d-RLAIF, the harmless rate, or the probability that a response beats a fixed
reference such as the human line (both orders).
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from typing import Any, Callable, Sequence

from rlaif_jax.core import jsonl
from rlaif_jax.engine import preemption
from rlaif_jax.core import records
from rlaif_jax.engine import metrics
from rlaif_jax.api import labelers
from rlaif_jax.labeling import costs
from rlaif_jax.labeling import endpoint_config
from rlaif_jax.labeling import judge as judge_lib
from rlaif_jax.labeling import responses
from rlaif_jax.labeling import store
from rlaif_jax.ops import statistics

Scored = tuple[list[records.Rating], records.Usage]


def run(
  *,
  output_dir: str,
  responses_file: str,
  rating: responses.RatingConfig | None = None,
  judge: judge_lib.JudgeConfig | None = None,
  reference_file: str = "",
  labeler_dir: str = "",
  endpoint: endpoint_config.EndpointConfig | None = None,
  tokenizer_dir: str = "",
  limit: int = 0,
  chunk_size: int = 256,
  prices: costs.Prices = costs.FREE,
  mesh: str = "data:-1",
) -> dict[str, Any]:
  """Writes ratings.jsonl in the order of the responses, and the mean score.

  Args:
    output_dir: where everything goes; a second start continues there.
    responses_file: responses.jsonl of the `sample` job.
    rating: asks for a score, or yes or no; what its template says.
    judge: instead of `rating`, compares each response with a reference; the
      score is the probability that the response is better.
    reference_file: JSONL of examples, whose responses are the references,
      matched by id; with `judge`.
    labeler_dir: finished language model that scores.
    endpoint: served language model that scores.
    tokenizer_dir: the served model's tokenizer; "": three characters a token.
    limit: first responses only (0: all).
    chunk_size: responses that are kept at a time.
    prices: of the labeler's tokens.
    mesh: devices of the labeler.
  """
  if (rating is None) == (judge is None) or bool(reference_file) != bool(judge):
    raise ValueError(
      "score: give either rating, or judge with reference_file; got "
      f"rating={rating}, judge={judge}, reference_file={reference_file!r}"
    )
  if bool(labeler_dir) == (endpoint is not None):
    raise ValueError("score: give either labeler_dir or endpoint")
  rows = jsonl.read_records(records.Response, responses_file)
  rows = rows[:limit] if limit else rows
  labeler = labelers.open_labeler(
    labeler_dir=labeler_dir,
    endpoint=endpoint,
    tokenizer_dir=tokenizer_dir,
    journal_file=f"{output_dir}/answers.jsonl",
    mesh=mesh,
  )
  quarantine = jsonl.Quarantine()
  examples = [
    records.Example(
      id=f"{row.id}/{row.index}", context=row.context, response=row.text
    )
    for row in rows
  ]
  if rating is not None:

    def score(some: Sequence[records.Example]) -> Scored:
      return responses.rate(
        some,
        labeler.backend,
        rating,
        tokenizer=labeler.tokenizer,
        quarantine=quarantine,
      )

  else:
    score = _against(reference_file, labeler, judge, quarantine)
  found, usage = in_chunks(
    pathlib.Path(output_dir) / "ratings.partial.jsonl",
    examples,
    score,
    chunk_size,
    labeler.settle,
  )
  directory = pathlib.Path(output_dir)
  jsonl.write_records(directory / "ratings.jsonl", found)
  scores = [row.score for row in found]
  summary: dict[str, Any] = {
    "score": dataclasses.asdict(statistics.mean(scores)),
    "responses": len(rows),
    "answered": len(found),
    "characters": dataclasses.asdict(
      statistics.mean([len(row.response) for row in found])
    ),
  }
  if judge is not None or rating.load_template().kind == "yesno":
    share = statistics.wilson(
      sum(1.0 if s > 0.5 else 0.5 * (s == 0.5) for s in scores), len(scores)
    )
    summary["share_above_half"] = dataclasses.asdict(share)
  return {
    "ratings": f"{output_dir}/ratings.jsonl",
    "kind": "reference" if rating is None else rating.load_template().kind,
    **summary,
    "labeler": labeler.backend.name,
    "usage": records.to_row(usage),
    "cost_usd": round(prices.cost_usd(usage), 4),
    "quarantined": quarantine.write(directory / "quarantine.jsonl"),
    "quarantine_reasons": quarantine.counts(),
  }


def _against(
  reference_file: str,
  labeler: labelers.Labeler,
  config: judge_lib.JudgeConfig,
  quarantine: jsonl.Quarantine,
) -> Callable[[Sequence[records.Example]], Scored]:
  """A scorer of responses against the references of their contexts."""
  references = {
    row.id: row.response
    for row in jsonl.stream_records(records.Example, reference_file)
  }

  def score(some: Sequence[records.Example]) -> Scored:
    pairs = []
    for row in some:
      name = row.id.rpartition("/")[0]
      if name not in references:
        raise ValueError(
          f"score: {reference_file} has no example {name!r}; name the file of "
          "the examples that were sampled from"
        )
      pairs.append(
        records.Pair(
          id=row.id,
          context=row.context,
          first=row.response,
          second=references[name],
        )
      )
    labels, usage = judge_lib.judge_pairs(
      pairs,
      labeler.backend,
      config,
      tokenizer=labeler.tokenizer,
      quarantine=quarantine,
    )
    ratings = [
      records.Rating(
        id=label.id,
        context=label.context,
        response=label.first,
        score=label.p_first,
        probabilities=(label.p_first, 1.0 - label.p_first),
        labeler=label.labeler,
      )
      for label in labels
    ]
    return ratings, usage

  return score


def in_chunks(
  path: pathlib.Path,
  examples: Sequence[records.Example],
  score: Callable[[Sequence[records.Example]], Scored],
  chunk_size: int,
  settle: Callable[[bool], None],
) -> Scored:
  """Scores chunk after chunk; chunks of an earlier start are not asked again.

  Each chunk is one line of the file, there whole or not at all.
  """
  lines = _whole_lines(path)
  found: list[records.Rating] = []
  spent = records.Usage()
  progress = metrics.Progress("score", len(examples), unit="responses")
  path.parent.mkdir(parents=True, exist_ok=True)
  with open(path, "a", encoding="utf-8") as f:
    for number, chunk in enumerate(store.batched(examples, chunk_size)):
      if number == len(lines):
        ratings, usage = score(chunk)
        row = {
          "ratings": [records.to_row(rating) for rating in ratings],
          "usage": records.to_row(usage),
        }
        f.write(jsonl.dump_row(row) + "\n")
        f.flush()
        os.fsync(f.fileno())
        lines.append(row)
        settle(len(ratings) == len(chunk))
      row = lines[number]
      found += [records.from_row(records.Rating, r) for r in row["ratings"]]
      spent += records.from_row(records.Usage, row["usage"])
      progress.update(min((number + 1) * chunk_size, len(examples)))
      if preemption.requested():
        raise preemption.Preempted(f"score: stopped after chunk {number + 1}")
  return found, spent


def _whole_lines(path: pathlib.Path) -> list[dict[str, Any]]:
  """Finished chunks; a torn last line is cut off."""
  if not path.exists():
    return []
  jsonl.cut_torn_line(path)
  return [json.loads(line) for line in path.read_bytes().splitlines()]
