# SPDX-License-Identifier: Apache-2.0
"""Apache Beam transform that labels pairs on Dataflow, Flink or Spark.

Groups pairs into the shards of `pair_source.PairSource.shard` and fills a label
store for each, so that labels and costs are those of the `label` job in one
process. Beam is imported when a pipeline is made, so that this module can be
imported without it. https://beam.apache.org/documentation/
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import shutil
import tempfile
import uuid
from types import ModuleType
from typing import TYPE_CHECKING, Any, Callable, Iterable

from rlaif_jax.core import jsonl
from rlaif_jax.core import protocols
from rlaif_jax.core import records
from rlaif_jax.core import validation
from rlaif_jax.engine import preemption
from rlaif_jax.labeling import judges
from rlaif_jax.labeling import pair_source
from rlaif_jax.labeling import store

if TYPE_CHECKING:
  import apache_beam as beam_types

# Beam namespace of the counters.
NAMESPACE = "rlaif_jax"

QUARANTINE = "quarantine"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Worker:
  """The labeler of a worker process.

  Fields:
    backend: language model.
    tokenizer: tokenizer of the backend, or an estimate of it.
    lock: held during calls of the backend; a real lock if the backend must not
      be called by two threads at the same time.
  """

  backend: protocols.Backend
  tokenizer: protocols.Tokenizer
  lock: contextlib.AbstractContextManager = contextlib.nullcontext()


@dataclasses.dataclass(frozen=True, kw_only=True)
class PipelineConfig(validation.Validated):
  """Settings of a labelling pipeline; pickled and sent to the workers.

  Fields:
    open_labeler: opens the labeler, once per worker process.
    judge: config of the judge.
    shards: number of shards; a worker holds one shard in memory at a time.
    batch_size: number of pairs that are labelled and stored at a time.
    store_dir: directory of the label store that all workers can access (local,
      gs://, hdfs://, ...); "" stores nothing.
  """

  open_labeler: Callable[[], Worker]
  judge: judges.Judge
  shards: validation.PositiveInt = 64
  batch_size: validation.PositiveInt = 64
  store_dir: str = ""


def import_beam() -> ModuleType:
  """Imports Apache Beam.

  Raises:
    ImportError: Beam is not installed.
  """
  try:
    import apache_beam
  except ImportError as error:
    raise ImportError(
      "pipelines need Apache Beam; type: pip install 'rlaif_jax[beam]'"
    ) from error
  return apache_beam


def as_pair(row: records.Row) -> records.Pair:
  """Makes a pair of a decoded line.

  Raises:
    ValueError: the row is not a pair; the message is the reason.
  """
  return records.pair_of_row(row)


# ---- Code that runs on a worker.


@dataclasses.dataclass(frozen=True)
class _Labeled:
  """Labels of a shard, quarantined pairs, and counters."""

  labels: list[records.Row]
  quarantine: list[records.Row]
  counts: dict[str, int]


def label_shard(
  shard: int,
  rows: Iterable[records.Row],
  worker: Worker,
  config: PipelineConfig,
) -> _Labeled:
  """Labels the pairs of a shard with its own label store.

  Downloads the file of the store from `store_dir` and uploads it after each
  batch, so that a shard that is processed again pays for one batch at most.
  Batches are slices of the pairs sorted by their hashes, so that they are the
  same on every runner.

  Args:
    shard: index of the shard.
    rows: rows of pairs, in any order.
    worker: the labeler.
    config: settings of the pipeline.

  Raises:
    preemption.Preempted: this process was asked to stop.
  """
  pairs = sorted(map(as_pair, rows), key=_sort_key)
  name = worker.backend.name
  provenance = config.judge.provenance(name)
  quarantine = jsonl.Quarantine()
  remote = ""
  if config.store_dir:
    remote = f"shard-{shard:05d}-of-{config.shards:05d}.jsonl"
    remote = f"{config.store_dir.rstrip('/')}/{remote}"

  def label_fn(batch):
    with worker.lock:
      return judges.judge_pairs(
        batch,
        worker.backend,
        config.judge,
        tokenizer=worker.tokenizer,
        quarantine=quarantine,
      )

  with tempfile.TemporaryDirectory() as scratch:
    file = pathlib.Path(scratch) / "labels.jsonl"
    if remote:
      _download(remote, file)
    stored = store.LabelStore(
      scratch,
      fingerprint=config.judge.fingerprint(name),
      provenance=provenance,
    )
    uploaded = 0

    def update(done):
      nonlocal uploaded
      if remote and stored.requested > uploaded:
        _upload(file, remote)
        uploaded = stored.requested
      if preemption.requested():
        raise preemption.Preempted(f"shard {shard}: stopped after {done} pairs")

    with contextlib.closing(stored):
      stored.fill(
        pairs, label_fn, chunk_size=config.batch_size, progress=update
      )
      labels = [records.to_row(label) for label in stored.labels(pairs)]
  source = json.dumps(provenance, sort_keys=True)
  counts = {"labelled": len(labels), "quarantined": len(quarantine.rows)}
  counts |= {"requested": stored.requested, **records.to_row(stored.usage)}
  labels = [{**label, "provenance": source} for label in labels]
  return _Labeled(labels, quarantine.rows, counts)


def _sort_key(pair: records.Pair) -> tuple[str, ...]:
  name = records.content_id(pair.context, pair.first, pair.second)
  return name, pair.id, pair.source


def _download(remote: str, file: pathlib.Path) -> None:
  from apache_beam.io import filesystems

  if filesystems.FileSystems.exists(remote):
    with filesystems.FileSystems.open(remote) as source:
      with open(file, "wb") as target:
        shutil.copyfileobj(source, target)


def _upload(file: pathlib.Path, remote: str) -> None:
  """Replaces the remote file atomically, also with concurrent uploads."""
  from apache_beam.io import filesystems

  partial = f"{remote}.{uuid.uuid4().hex}.partial"
  with filesystems.FileSystems.create(partial) as target:
    with open(file, "rb") as source:
      shutil.copyfileobj(source, target)
  filesystems.FileSystems.rename([partial], [remote])


# ---- The transform.


def label_pairs(config: PipelineConfig) -> "beam_types.PTransform":
  """Returns a transform from rows of `Pair` to rows of `Preference`.

  The input is a PCollection of dicts in one window. The output is a dict of two
  PCollections: "labels" has the fields of `records.Preference` and `provenance`
  (JSON text, as in the Parquet files); "quarantine" has rows {"where",
  "reason", "row"}. Counters in `NAMESPACE`: pairs, labelled, quarantined,
  requested (pairs that were not in the store), and the fields of
  `records.Usage`, which include labels from the store.

  Raises:
    ImportError: Beam is not installed.
  """
  beam = import_beam()
  from apache_beam.utils import shared

  handle = shared.Shared()

  class Check(beam.DoFn):
    def process(self, row):
      try:
        pair = as_pair(row)
      except (ValueError, TypeError) as error:
        bad = bad_row("labeling", error, jsonl.dump_row(row))
        count({"quarantined": 1})
        yield beam.pvalue.TaggedOutput(QUARANTINE, bad)
        return
      count({"pairs": 1})
      yield pair_source.shard_of(pair, config.shards), records.to_row(pair)

  class LabelShard(beam.DoFn):
    def setup(self):
      self._worker = handle.acquire(config.open_labeler)

    def process(self, element):
      done = label_shard(*element, self._worker, config)
      count(done.counts)
      yield from done.labels
      for row in done.quarantine:
        yield beam.pvalue.TaggedOutput(QUARANTINE, row)

  class LabelPairs(beam.PTransform):
    def expand(self, input_or_inputs):
      checked = input_or_inputs | "Check" >> beam.ParDo(Check()).with_outputs(
        QUARANTINE, main="pairs"
      )
      labelled = (
        checked.pairs
        | "ByContent" >> beam.GroupByKey()
        | "Label"
        >> beam.ParDo(LabelShard()).with_outputs(QUARANTINE, main="labels")
      )
      # A failure in a later step does not repeat the labelling.
      labels = labelled.labels | "Hold" >> beam.Reshuffle()
      bad = (checked[QUARANTINE], labelled[QUARANTINE])
      return {"labels": labels, QUARANTINE: bad | beam.Flatten()}

  return LabelPairs()


def bad_row(where: str, error: Exception, row: str) -> dict[str, str]:
  """Returns a row of the quarantine with its text as valid UTF-8."""
  text = row.encode("utf-8", "backslashreplace").decode("utf-8")
  return {"where": where, "reason": str(error), "row": text}


def count(counts: dict[str, int]) -> None:
  """Adds to the counters, on a worker."""
  beam = import_beam()
  for name, value in counts.items():
    beam.metrics.Metrics.counter(NAMESPACE, name).inc(value)


def counts_of(result: Any) -> dict[str, int]:
  """Returns the counters of a finished pipeline, summed over its steps."""
  counts: dict[str, int] = {}
  for counter in result.metrics().query()["counters"]:
    if counter.key.metric.namespace == NAMESPACE:
      name = counter.key.metric.name
      counts[name] = counts.get(name, 0) + counter.result
  return counts
