# SPDX-License-Identifier: Apache-2.0
"""Labels files of pairs in an Apache Beam pipeline, for the `label` job.

For pairs that are stored where Dataflow, Flink or Spark run. Needs the extra
[beam]. The workers need rlaif_jax, the labeler's files, and the endpoint's API
key in an environment variable of their own; keys are not part of the pipeline.
"""

from __future__ import annotations

import dataclasses
import functools
import glob
import itertools
import json
import pathlib
import threading
from typing import Iterator

from rlaif_jax.api import labelers
from rlaif_jax.core import inputs
from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.core import validation
from rlaif_jax.engine import preemption
from rlaif_jax.labeling import beam_files
from rlaif_jax.labeling import beam_labels
from rlaif_jax.labeling import endpoint as endpoint_lib
from rlaif_jax.labeling import judges
from rlaif_jax.labeling import pair_source
from rlaif_jax.labeling import store


@dataclasses.dataclass(frozen=True, kw_only=True)
class BeamConfig(validation.Validated):
  """Settings of the pipeline.

  Fields:
    shards: number of shards of the pairs by hash of their texts. A worker holds
      one shard in memory; use several per worker thread, of a few thousand
      pairs each.
    labels_dir: directory of labels and store that all workers can access; "" is
      the output directory.
    pipeline_options: Beam options such as ("--runner=FlinkRunner",). Without a
      runner everything runs in this process.
  """

  shards: validation.PositiveInt = 64
  labels_dir: str = ""
  pipeline_options: tuple[str, ...] = ()


def label_files(
  pairs: pair_source.PairSource,
  labeler: labelers.LabelerConfig,
  judge: judges.Judge,
  config: BeamConfig,
  store_config: labelers.StoreConfig,
  *,
  output_dir: str,
) -> records.Row:
  """Writes labels-*.jsonl, quarantine-*.jsonl and a label store.

  If pairs and labels are on a mounted file system, also writes labels.jsonl, in
  the order of the pairs, and quarantine.jsonl to `output_dir`.

  Args:
    pairs: `pairs.pairs_file` is a pattern in Beam's syntax, such as
      "pairs-*.jsonl" or "gs://bucket/pairs/*.jsonl.gz".
    labeler: the labeler; a `labeler_dir` must be visible to all workers.
    judge: settings of the judge.
    config: settings of the pipeline.
    store_config: settings of the store, without a budget, since the workers do
      not share one.
    output_dir: directory of labels.jsonl and quarantine.jsonl.

  Returns:
    The summary for the result file.

  Raises:
    ValueError: the pipeline failed, there are no pairs, or `labels_dir` has
      labels of another run.
    preemption.Preempted: this process was asked to stop.
  """
  if (pairs.limit, pairs.shard, store_config.budget_usd) != (0, "0/1", 0.0):
    raise ValueError(
      f"PairSource.limit is {pairs.limit}, shard is {pairs.shard!r} and "
      f"StoreConfig.budget_usd is {store_config.budget_usd}; a Beam pipeline "
      "supports none of them, leave them at their defaults"
    )
  for path in sorted(glob.glob(pairs.pairs_file)):
    inputs.note(path)
  folder = (config.labels_dir or output_dir).rstrip("/")
  store_dir = store_config.store_dir or f"{folder}/store"
  if config.labels_dir:
    _claim(folder, pathlib.Path(output_dir) / "labels_dir.json")
  counts = _run(
    pairs.pairs_file,
    folder,
    beam_labels.PipelineConfig(
      open_labeler=functools.partial(open_worker, labeler),
      judge=judge,
      shards=config.shards,
      batch_size=store_config.chunk_size,
      store_dir=store_dir,
    ),
    config.pipeline_options,
  )
  rejected = list(beam_files.read_rows(f"{folder}/quarantine-*.jsonl"))
  quarantine = jsonl.Quarantine()
  for row in sorted(rejected, key=jsonl.dump_row):
    quarantine.add(**row)
  first = next(beam_files.read_rows(f"{folder}/labels-*.jsonl"), None)
  if counts.get("labelled") and first is None:
    raise ValueError(
      f"the workers wrote labels-*.jsonl, but {folder} has none; set "
      "BeamConfig.labels_dir to a directory that they and this machine share"
    )
  usage = records.Usage(
    **{name: counts.get(name, 0) for name in records.to_row(records.Usage())}
  )
  summary = {
    "labels": f"{folder}/labels-*.jsonl",
    "pairs": counts["pairs"],
    "answered": counts.get("labelled", 0),
    "requested": counts.get("requested", 0),
    "labeler": first["labeler"] if first else "",
    **labelers.describe_usage(usage, labeler.prices),
    "quarantined": counts.get("quarantined", 0),
    "quarantine_reasons": quarantine.counts(),
  }
  if beam_files.is_local(pairs.pairs_file) and beam_files.is_local(folder):
    directory = pathlib.Path(output_dir)
    _merge(
      directory / "labels.jsonl", pairs.pairs_file, store_dir, judge, first
    )
    quarantine.write(directory / "quarantine.jsonl")
    summary["labels"] = f"{output_dir}/labels.jsonl"
  return summary


def _claim(folder: str, mark: pathlib.Path) -> None:
  """Checks that no other run has written to a folder, and marks it as ours."""
  if not mark.exists() and beam_files.written(folder):
    raise ValueError(
      f"BeamConfig.labels_dir is {folder}, which has labels of another run; "
      "name another folder"
    )
  jsonl.write_text(mark, json.dumps({"labels_dir": folder}) + "\n")


def _run(
  pattern: str,
  folder: str,
  config: beam_labels.PipelineConfig,
  options: tuple[str, ...],
) -> dict[str, int]:
  """Runs the pipeline; returns its counters."""
  try:
    counts = beam_files.label_files(pattern, folder, config, flags=options)
  except (RuntimeError, preemption.Preempted) as error:
    if preemption.requested():
      raise preemption.Preempted("label: stopped") from error
    raise ValueError(
      f"the Beam pipeline failed: {_last_line(error)} (--debug shows the whole "
      "error). Labels that were paid are stored; run the same command again to "
      "resume"
    ) from error
  if not counts.get("pairs"):
    raise ValueError(f"{pattern} has no pairs; run the sample job first")
  return counts


def read_pairs(pattern: str) -> Iterator[records.Pair]:
  """Yields the pairs of files on a mounted file system; skips bad lines."""
  return itertools.chain.from_iterable(
    jsonl.stream_rows(path, beam_labels.as_pair, jsonl.Quarantine())
    for path in sorted(glob.glob(pattern))
  )


def open_worker(labeler: labelers.LabelerConfig) -> beam_labels.Worker:
  """Opens a labeler on a worker.

  The threads of a worker process call an endpoint concurrently, and a model one
  at a time.
  """
  if labeler.endpoint is not None:
    tokenizer = labeler.load_tokenizer()
    return beam_labels.Worker(
      backend=endpoint_lib.EndpointBackend(
        labeler.endpoint, tokenizer=tokenizer
      ),
      tokenizer=tokenizer,
    )
  loaded = labelers.load_labeler(labeler, journal_file="")
  return beam_labels.Worker(
    backend=loaded.backend, tokenizer=loaded.tokenizer, lock=threading.Lock()
  )


def _merge(
  labels_file: pathlib.Path,
  pattern: str,
  store_dir: str,
  judge: judges.Judge,
  first: records.Row | None,
) -> None:
  """Writes the labels in the order of the pairs; `first` is any label."""
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
  """Returns the last line of an error, since Beam repeats whole tracebacks."""
  lines = [line.strip() for line in str(error).splitlines() if line.strip()]
  return json.dumps(lines[-1] if lines else type(error).__name__)
