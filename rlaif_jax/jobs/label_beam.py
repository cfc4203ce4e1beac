# SPDX-License-Identifier: Apache-2.0
"""Labels pairs as the `label` job does, in an Apache Beam pipeline.

For pairs that already live where Dataflow, Flink or Spark run; on one machine
the `label` job does the same with less. Needs the extra [beam]. The workers
need rlaif_jax, the labeler's files, and the endpoint's key in an environment
variable of their own: keys are not part of the pipeline.
"""

from __future__ import annotations

import functools
import glob
import itertools
import json
import pathlib
import threading
from typing import Any

from rlaif_jax.core import jsonl
from rlaif_jax.engine import preemption
from rlaif_jax.core import records
from rlaif_jax.evaluation import agreement
from rlaif_jax.api import labelers
from rlaif_jax.labeling import beam_files
from rlaif_jax.labeling import beam_labels
from rlaif_jax.labeling import costs
from rlaif_jax.labeling import endpoint as endpoint_lib
from rlaif_jax.labeling import endpoint_config
from rlaif_jax.labeling import store


def run(
  *,
  output_dir: str,
  pairs_pattern: str,
  judge: labelers.Judge,
  labeler_dir: str = "",
  endpoint: endpoint_config.EndpointConfig | None = None,
  tokenizer_dir: str = "",
  labels_dir: str = "",
  shards: int = 64,
  batch_size: int = 64,
  pipeline_options: tuple[str, ...] = (),
  prices: costs.Prices = costs.FREE,
  mesh: str = "data:-1",
) -> dict[str, Any]:
  """Writes labels-*.jsonl, quarantine-*.jsonl and a label store.

  Where pairs and labels are files of this machine, it also writes labels.jsonl
  and quarantine.jsonl, the former in the order of the pairs, as `label` does.

  Args:
    output_dir: where the result is written; a second start continues there.
    pairs_pattern: files of pairs, as Beam reads them: "pairs-*.jsonl",
      "gs://bucket/pairs/*.jsonl.gz".
    judge: how the language model is asked (JudgeConfig), or which likelihoods
      are compared (LikelihoodConfig).
    labeler_dir: finished language model that labels, in a folder that all
      workers see.
    endpoint: served language model that labels.
    tokenizer_dir: the served model's tokenizer, by which contexts are cut; "":
      three characters a token.
    labels_dir: folder for labels and store, which all workers reach; "":
      output_dir.
    shards: parts by hash of the pairs' texts. A worker holds one in memory;
      take some for each thread of all workers, of a few thousand pairs.
    batch_size: pairs that are asked for, and stored, at a time.
    pipeline_options: Beam's own, such as ("--runner=FlinkRunner",); without
      a runner, everything runs in this process.
    prices: of the labeler's tokens.
    mesh: devices of each worker's own labeler.
  """
  labelers.check(judge, labeler_dir, endpoint)
  folder = (labels_dir or output_dir).rstrip("/")
  config = beam_labels.LabelingConfig(
    open_labeler=functools.partial(
      open_worker,
      labeler_dir=labeler_dir,
      endpoint=endpoint,
      tokenizer_dir=tokenizer_dir,
      mesh=mesh,
    ),
    judge_pairs=labelers.JUDGING[type(judge)].judge_pairs,
    judge=judge,
    shards=shards,
    batch_size=batch_size,
    kept_dir=f"{folder}/store",
  )
  # 1. The pipeline.
  try:
    counts = beam_files.label_files(
      pairs_pattern, folder, config, flags=pipeline_options
    )
  except (RuntimeError, preemption.Preempted) as error:
    if preemption.requested():
      raise preemption.Preempted("label_beam: stopped") from error
    raise ValueError(
      f"label_beam: the pipeline failed: {_last_line(error)} (--debug shows "
      "all of it). What is paid is kept; the same command continues"
    ) from error
  if not counts.get("pairs"):
    raise ValueError(f"{pairs_pattern} has no pairs; run the sample job first")
  # 2. What it wrote.
  bad = list(beam_files.read_rows(f"{folder}/quarantine-*.jsonl"))
  quarantine = jsonl.Quarantine()
  for row in sorted(bad, key=jsonl.dump_row):
    quarantine.add(**row)
  first = next(beam_files.read_rows(f"{folder}/labels-*.jsonl"), None)
  if counts.get("labelled") and first is None:
    raise ValueError(
      f"label_beam: no labels-*.jsonl in {folder}, where the workers wrote "
      "them; set labels_dir to a folder that they and this machine share"
    )
  usage = records.Usage(
    **{name: counts.get(name, 0) for name in records.to_row(records.Usage())}
  )
  summary = {
    "labels": f"{folder}/labels-*.jsonl",
    "pairs": counts["pairs"],
    "answered": counts.get("labelled", 0),
    "asked": counts.get("asked", 0),
    "labeler": first["labeler"] if first else "",
    "usage": records.to_row(usage),
    "cost_usd": round(prices.cost_usd(usage), 4),
    "quarantined": counts.get("quarantined", 0),
    "quarantine_reasons": quarantine.counts(),
  }
  # 3. One file, where that is this machine's matter.
  if beam_files.is_local(pairs_pattern) and beam_files.is_local(folder):
    labels_file = pathlib.Path(output_dir) / "labels.jsonl"
    _merge(labels_file, pairs_pattern, f"{folder}/store", judge, first)
    quarantine.write(pathlib.Path(output_dir) / "quarantine.jsonl")
    rows = jsonl.stream_records(records.Preference, labels_file)
    summary["position_bias"] = agreement.to_row(agreement.position_bias(rows))
    summary["labels"] = f"{output_dir}/labels.jsonl"
  return summary


def dry_run(
  *,
  pairs_pattern: str,
  judge: labelers.Judge,
  labeler_dir: str = "",
  tokenizer_dir: str = "",
  prices: costs.Prices = costs.FREE,
  **others: Any,
) -> str:
  """What it would cost, where the files are this machine's."""
  del others
  if not beam_files.is_local(pairs_pattern):
    return f"What it would cost can be said of local files; see {pairs_pattern}"
  paths = glob.glob(pairs_pattern)
  if not paths:
    return f"What it would cost can be said when {pairs_pattern} is there."
  for path in filter(None, (labeler_dir, tokenizer_dir)):
    if not pathlib.Path(path).exists():
      return f"What it would cost can be said when {path} is there."
  tokenizer = labelers.open_tokenizer(labeler_dir, tokenizer_dir)
  judging = labelers.JUDGING[type(judge)]
  expected = costs.estimate(
    itertools.chain.from_iterable(
      jsonl.stream_rows(path, beam_labels.as_pair, jsonl.Quarantine())
      for path in sorted(paths)
    ),
    lambda pair: judging.expected_usage(pair, judge, tokenizer),
  )
  return costs.describe(expected, prices)


def open_worker(
  *,
  labeler_dir: str,
  endpoint: endpoint_config.EndpointConfig | None,
  tokenizer_dir: str,
  mesh: str,
) -> beam_labels.Worker:
  """A worker's labeler: an endpoint for all its threads, a model for each."""
  if endpoint is not None:
    return beam_labels.Worker(
      backend=endpoint_lib.EndpointBackend(endpoint),
      tokenizer=labelers.open_tokenizer("", tokenizer_dir),
    )
  labeler = labelers.open_labeler(
    labeler_dir=labeler_dir, journal_file="", mesh=mesh
  )
  return beam_labels.Worker(
    backend=labeler.backend,
    tokenizer=labeler.tokenizer,
    turn=threading.Lock(),
  )


def _merge(labels_file, pattern, store_dir, judge, first) -> None:
  """The labels in the order of the pairs; `first` is any of them."""
  if first is None:
    jsonl.write_records(labels_file, [])
    return
  stored = store.LabelStore(
    store_dir, fingerprint=judge.fingerprint(first["labeler"])
  )
  jsonl.write_records(
    labels_file, stored.labels(beam_files.read_pairs(pattern))
  )
  stored.close()


def _last_line(error: BaseException) -> str:
  """What a worker said last; Beam repeats its whole traceback."""
  lines = [line.strip() for line in str(error).splitlines() if line.strip()]
  return json.dumps(lines[-1] if lines else type(error).__name__)
