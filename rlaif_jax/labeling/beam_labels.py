# SPDX-License-Identifier: Apache-2.0
"""Labels by Apache Beam, for pairs that live on Dataflow, Flink or Spark.

Owns how pairs are spread and what of them is kept. Pairs are grouped into
shards by the hash of their texts, the same ones as those of `label --shard`;
each shard is filled like any label store, so a label costs and says what it
would in the `label` job. Beam is imported when a pipeline is made, so that
this module can be read without it. https://beam.apache.org/documentation/
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
from rlaif_jax.engine import preemption
from rlaif_jax.core import protocols
from rlaif_jax.core import records
from rlaif_jax.labeling import store

if TYPE_CHECKING:
  import apache_beam as beam_types

# Where Beam shows the counters.
NAMESPACE = "rlaif_jax"

QUARANTINE = "quarantine"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Worker:
  """A labeler that a worker process has opened.

  Fields:
    backend: who labels.
    tokenizer: its tokenizer, or one that stands for it.
    turn: is held while the backend is asked: a lock where two threads of the
      process should not ask at once.
  """

  backend: protocols.Backend
  tokenizer: protocols.Tokenizer
  turn: contextlib.AbstractContextManager = contextlib.nullcontext()


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelingConfig:
  """How a pipeline labels; all of it travels to the workers.

  Fields:
    open_labeler: opens the labeler, once per worker process.
    judge_pairs: of `labeling.judge` or of `labeling.likelihood`.
    judge: the config of it.
    shards: parts by hash of the texts; a worker holds one part at a time.
    batch_size: pairs that are asked for, and kept, at a time.
    kept_dir: folder that all workers reach (local, gs://, hdfs://, ...), for
      what is paid; "": nothing outlives the worker.
  """

  open_labeler: Callable[[], Worker]
  judge_pairs: Callable[..., tuple[list[records.Preference], records.Usage]]
  judge: Any
  shards: int = 64
  batch_size: int = 64
  kept_dir: str = ""

  def __post_init__(self):
    for field in ("shards", "batch_size"):
      if getattr(self, field) < 1:
        raise ValueError(
          f"{field} is {getattr(self, field)}; it should be at least 1"
        )


def import_beam() -> ModuleType:
  """Apache Beam.

  Raises:
    ImportError: it is not installed.
  """
  try:
    import apache_beam
  except ImportError as error:
    raise ImportError(
      "pipelines need Apache Beam; type: pip install 'rlaif_jax[beam]'"
    ) from error
  return apache_beam


def as_pair(row: Any) -> records.Pair:
  """A pair that has a name, of a decoded line.

  Raises:
    ValueError, TypeError: it is none; the message is the reason.
  """
  pair = records.pair_of_row(row)
  try:
    "".join(vars(pair).values()).encode("utf-8")
  except UnicodeEncodeError as error:
    raise ValueError(
      "a text holds half a surrogate pair; it is no Unicode"
    ) from error
  return pair


def shard_of(pair: records.Pair, shards: int) -> int:
  """The shard that `label --shard=k/n` puts a pair into, from 0."""
  name = records.content_id(pair.context, pair.first, pair.second)
  return int(name, 16) % shards


# ---- On a worker.


@dataclasses.dataclass(frozen=True)
class _Labeled:
  """A shard with its labels, the pairs without one, and what it cost."""

  labels: list[dict[str, Any]]
  quarantine: list[dict[str, Any]]
  counts: dict[str, int]


def label_shard(
  shard: int,
  rows: Iterable[dict[str, Any]],
  worker: Worker,
  config: LabelingConfig,
) -> _Labeled:
  """Labels the pairs of a shard through a label store of its own.

  The store's file is brought from `kept_dir` and sent back after each batch,
  so that a shard that is given out again pays for the batch under way alone.
  Batches are slices of the pairs in the order of their hashes: the same ones
  on every runner.

  Args:
    shard: its number.
    rows: of pairs, in any order.
    worker: who labels.
    config: how.

  Raises:
    preemption.Preempted: this process is asked to stop.
  """
  pairs = sorted(map(as_pair, rows), key=_order)
  name = worker.backend.name
  provenance = config.judge.provenance(name)
  quarantine = jsonl.Quarantine()
  kept = ""
  if config.kept_dir:
    kept = f"shard-{shard:05d}-of-{config.shards:05d}.jsonl"
    kept = f"{config.kept_dir.rstrip('/')}/{kept}"

  def ask(some):
    with worker.turn:
      return config.judge_pairs(
        some,
        worker.backend,
        config.judge,
        tokenizer=worker.tokenizer,
        quarantine=quarantine,
      )

  with tempfile.TemporaryDirectory() as scratch:
    file = pathlib.Path(scratch) / "labels.jsonl"
    if kept:
      _fetch(kept, file)
    stored = store.LabelStore(
      scratch,
      fingerprint=config.judge.fingerprint(name),
      provenance=provenance,
    )
    sent = 0

    def update(done):
      nonlocal sent
      if kept and stored.asked > sent:
        _send(file, kept)
        sent = stored.asked
      if preemption.requested():
        raise preemption.Preempted(f"shard {shard}: stopped after {done} pairs")

    with contextlib.closing(stored):
      stored.fill(pairs, ask, chunk_size=config.batch_size, progress=update)
      labels = [records.to_row(label) for label in stored.labels(pairs)]
  made = json.dumps(provenance, sort_keys=True)
  counts = {"labelled": len(labels), "quarantined": len(quarantine.rows)}
  counts |= {"asked": stored.asked, **records.to_row(stored.usage)}
  return _Labeled(
    [{**label, "provenance": made} for label in labels], quarantine.rows, counts
  )


def _order(pair: records.Pair) -> tuple[str, ...]:
  name = records.content_id(pair.context, pair.first, pair.second)
  return name, pair.id, pair.source


def _fetch(kept: str, file: pathlib.Path) -> None:
  from apache_beam.io import filesystems

  if filesystems.FileSystems.exists(kept):
    with filesystems.FileSystems.open(kept) as source:
      with open(file, "wb") as target:
        shutil.copyfileobj(source, target)


def _send(file: pathlib.Path, kept: str) -> None:
  """Puts the file in its place whole, whoever else does the same."""
  from apache_beam.io import filesystems

  partial = f"{kept}.{uuid.uuid4().hex}.partial"
  with filesystems.FileSystems.create(partial) as target:
    with open(file, "rb") as source:
      shutil.copyfileobj(source, target)
  filesystems.FileSystems.rename([partial], [kept])


# ---- The transform.


def label_pairs(config: LabelingConfig) -> "beam_types.PTransform":
  """A transform from rows of `records.Pair` to rows of `records.Preference`.

  Its input is a PCollection of dicts in one window. Its output is a dict of
  two PCollections: "labels", whose rows are those of `records.Preference` and
  a text `provenance` (JSON, as in the Parquet files), and "quarantine", whose
  rows are {"where", "reason", "row"}. Counters in `NAMESPACE`: pairs, labelled,
  quarantined, asked (pairs that were not found in `kept_dir`), and the fields
  of `records.Usage`, which include what is kept.

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
      yield shard_of(pair, config.shards), records.to_row(pair)

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
      # What fails behind it does not make the labels be asked again.
      labels = labelled.labels | "Hold" >> beam.Reshuffle()
      bad = (checked[QUARANTINE], labelled[QUARANTINE])
      return {"labels": labels, QUARANTINE: bad | beam.Flatten()}

  return LabelPairs()


def bad_row(where: str, error: Exception, row: str) -> dict[str, str]:
  """A row of the quarantine; its text travels whatever it holds."""
  text = row.encode("utf-8", "backslashreplace").decode("utf-8")
  return {"where": where, "reason": str(error), "row": text}


def count(counts: dict[str, int]) -> None:
  """Adds to the counters, on a worker."""
  beam = import_beam()
  for name, count in counts.items():
    beam.metrics.Metrics.counter(NAMESPACE, name).inc(count)


def counts_of(result: Any) -> dict[str, int]:
  """The counters of a finished pipeline's result, over all its steps."""
  counts: dict[str, int] = {}
  for counter in result.metrics().query()["counters"]:
    if counter.key.metric.namespace == NAMESPACE:
      name = counter.key.metric.name
      counts[name] = counts.get(name, 0) + counter.result
  return counts
