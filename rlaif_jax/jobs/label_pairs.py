# SPDX-License-Identifier: Apache-2.0
"""Labels pairs: by a language model as in the paper, or by simulated humans.

The model runs in this process (`labeler_dir`) or behind an OpenAI-compatible
endpoint (`endpoint`). Simulated humans are the known gold reward plus
Bradley-Terry noise. They may also write instructions (judge prompts with
verdicts), from which `train_sft` makes a small labeler.
"""

from __future__ import annotations

import functools
import pathlib
from typing import Any

from rlaif_jax.core import job_spec
from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.evaluation import agreement
from rlaif_jax.evaluation import gold
from rlaif_jax.api import instructions as instructions_lib
from rlaif_jax.api import labelers
from rlaif_jax.labeling import costs
from rlaif_jax.labeling import endpoint_config
from rlaif_jax.labeling import exports

JOB = job_spec.JobSpec(overridable=("budget_usd",))


def run(
  *,
  output_dir: str,
  pairs_file: str,
  judge: labelers.Judge | None = None,
  labeler_dir: str = "",
  endpoint: endpoint_config.EndpointConfig | None = None,
  tokenizer_dir: str = "",
  humans: gold.HumanConfig | None = None,
  instructions: instructions_lib.InstructionConfig | None = None,
  human_labels_file: str = "",
  limit: int = 0,
  shard: str = "0/1",
  store_dir: str = "",
  chunk_size: int = 512,
  prices: costs.Prices = costs.FREE,
  budget_usd: float = 0.0,
  parquet: bool = False,
  mesh: str = "data:-1",
) -> dict[str, Any]:
  """Writes labels.jsonl (and instructions.jsonl) in the order of the pairs.

  Args:
    output_dir: where everything goes; a second start continues there.
    pairs_file: pairs.jsonl of the `sample` job, or preferences of humans, such
      as a prepared split of `tldr_comparisons`, whose labels are not looked at.
    judge: how the language model is asked (JudgeConfig), or which likelihoods
      are compared (LikelihoodConfig); needs labeler_dir or endpoint.
    labeler_dir: finished language model that labels.
    endpoint: served language model that labels.
    tokenizer_dir: the served model's tokenizer, by which contexts are cut and
      costs estimated; "": three characters a token.
    humans: simulated raters instead of a language model.
    instructions: with humans, also write instructions.jsonl.
    human_labels_file: labels of the same pairs by humans; the alignment of
      the labels with them is measured.
    limit: first pairs only (0: all).
    shard: "k/n": label the k-th of n parts of the pairs, counted from 0, by
      hash of their texts, so that n processes share the work.
    store_dir: the labels paid so far, which processes may share; "":
      output_dir/store.
    chunk_size: pairs that are kept at a time; a kill costs at most one chunk
      of a model of one's own, and no answer of an endpoint.
    prices: of the labeler's tokens.
    budget_usd: stop before the store has cost more than this (0: no limit).
    parquet: also write labels.parquet.
    mesh: devices of the labeler.
  """
  _check(judge, labeler_dir, endpoint, humans)
  directory = pathlib.Path(output_dir)
  quarantine = jsonl.Quarantine()
  read = functools.partial(
    labelers.read_pairs, pairs_file, limit=limit, shard=shard
  )
  # Bad lines are noted in the first of several readings.
  count = sum(1 for _ in read(quarantine=quarantine))
  if not count:
    raise ValueError(f"{pairs_file} has no pairs; run the sample job first")
  pairs = functools.partial(read, quarantine=jsonl.Quarantine())
  if judge is None:
    labels, summary = gold.rate_pairs(list(pairs()), humans)
    if instructions is not None:
      rows = instructions_lib.make_instructions(labels, instructions)
      path = directory / "instructions.jsonl"
      summary["instructions"] = jsonl.write_records(path, rows)
    jsonl.write_records(directory / "labels.jsonl", labels)
    made = {"humans": records.to_row(humans)}
  else:
    labeler = labelers.open_labeler(
      labeler_dir=labeler_dir,
      endpoint=endpoint,
      tokenizer_dir=tokenizer_dir,
      journal_file=f"{output_dir}/answers.jsonl",
      mesh=mesh,
    )
    stored = labelers.label(
      pairs,
      labeler,
      judge,
      store_dir=store_dir or f"{output_dir}/store",
      chunk_size=chunk_size,
      prices=prices,
      budget_usd=budget_usd,
      quarantine=quarantine,
    )
    summary = {
      "pairs": count,
      "answered": jsonl.write_records(
        directory / "labels.jsonl", stored.labels(pairs())
      ),
      "labeler": labeler.backend.name,
      "usage": records.to_row(stored.usage),
      "cost_usd": round(prices.cost_usd(stored.usage), 4),
    }
    made = judge.provenance(labeler.backend.name)
  summary["quarantined"] = quarantine.write(directory / "quarantine.jsonl")
  summary["quarantine_reasons"] = quarantine.counts()
  labels_file = directory / "labels.jsonl"
  if parquet:
    rows = jsonl.stream_records(records.Preference, labels_file)
    exports.write_parquet(directory / "labels.parquet", rows, made)
  if judge is not None:
    rows = jsonl.stream_records(records.Preference, labels_file)
    summary["position_bias"] = agreement.to_row(agreement.position_bias(rows))
  if human_labels_file:
    summary["alignment"] = _alignment(labels_file, human_labels_file)
  return {"labels": f"{output_dir}/labels.jsonl", **summary}


def dry_run(
  *,
  pairs_file: str,
  judge: labelers.Judge | None = None,
  labeler_dir: str = "",
  tokenizer_dir: str = "",
  limit: int = 0,
  shard: str = "0/1",
  prices: costs.Prices = costs.FREE,
  **others: Any,
) -> str:
  """What the run would read, write and cost; no labeler is called."""
  del others
  if judge is None:
    return "Simulated humans cost nothing."
  for path in filter(None, (pairs_file, labeler_dir, tokenizer_dir)):
    if not pathlib.Path(path).exists():
      return f"What it would cost can be said when {path} is there."
  tokenizer = labelers.open_tokenizer(labeler_dir, tokenizer_dir)
  judging = labelers.JUDGING[type(judge)]
  expected = costs.estimate(
    labelers.read_pairs(pairs_file, limit=limit, shard=shard),
    lambda pair: judging.expected_usage(pair, judge, tokenizer),
  )
  return costs.describe(expected, prices)


def _check(judge, labeler_dir, endpoint, humans) -> None:
  """One kind of labeler, whole."""
  if humans is None:
    labelers.check(judge, labeler_dir, endpoint)
  elif judge is not None or labeler_dir or endpoint is not None:
    raise ValueError(
      "label: give judge with either labeler_dir or endpoint, or else humans; "
      f"got judge={judge}, labeler_dir={labeler_dir!r}, endpoint={endpoint}, "
      f"humans={humans}"
    )


def _alignment(labels_file: pathlib.Path, human_labels_file: str):
  """Alignment of a file of labels with human ones; only theirs are held."""
  truth = jsonl.read_records(records.Preference, human_labels_file)
  names = {row.id for row in truth}
  rows = jsonl.stream_records(records.Preference, labels_file)
  labels = [row for row in rows if row.id in names]
  return agreement.to_row(agreement.alignment(labels, truth))
