# SPDX-License-Identifier: Apache-2.0
"""Labelling as a step of an Apache Beam pipeline.

For pairs that live where Dataflow, Flink or Spark run. The judges are those of
the `label` job and give the same labels. Equal pairs are asked once (they meet
by the hash of their texts). Beam may run a bundle again after a fault and then
asks again for what it held; a label store on a disk that all workers see
prevents that. Only this module knows Beam, and imports it when it is used.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import json
import pickle
import threading
from typing import Any, Callable, Iterable, Iterator, Sequence

from rlaif_jax.core import jsonl
from rlaif_jax.core import preemption
from rlaif_jax.core import records
from rlaif_jax.labeling import store

# Of the counters: labelled, quarantined, and the fields of `records.Usage`.
NAMESPACE = "rlaif_jax"

QUARANTINE = "quarantine"

# Pairs with the same texts, under the hash of these.
Group = tuple[str, Iterable[dict[str, Any]]]


def import_beam() -> Any:
  """The package.

  Raises:
    ImportError: it is not installed.
  """
  try:
    import apache_beam
  except ImportError as error:
    raise ImportError(
      "Apache Beam is not installed; type: pip install 'rlaif_jax[beam]'"
    ) from error
  return apache_beam


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answering:
  """Who answers, opened once in each worker process.

  Fields:
    backend: a `protocols.Backend` that several threads may ask.
    tokenizer: that counts and cuts contexts.
    judge_pairs: of the module of the judge's config.
  """

  backend: Any
  tokenizer: Any
  judge_pairs: Callable[..., Any]


def label_pairs(
  *,
  open_answering: Callable[[], Answering],
  judge: Any,
  batch_size: int = 256,
  store_dir: str = "",
) -> Any:
  """A PTransform: lines or rows of `records.Pair` to rows of `Preference`.

      labels, bad = lines | label_pairs(...)

  Its outputs are `labels`, dicts as in labels.jsonl, in no order, and `bad`,
  dicts of `row` and `reason`. Counters (`NAMESPACE`) say what it cost.

  Args:
    open_answering: opens the labeler in a worker; pickled, so it must hold
      names and settings only. Secrets are read from the worker's environment.
    judge: JudgeConfig or LikelihoodConfig.
    batch_size: pairs of one call of the judge, at most.
    store_dir: label store on a disk that all workers see; "": none.

  Raises:
    ImportError: Beam is not installed.
  """
  beam = import_beam()
  work = _Batch(
    opener=pickle.dumps(open_answering), judge=judge, store_dir=store_dir
  )

  @beam.ptransform_fn
  def LabelPairs(rows):
    parsed = rows | "Parse" >> beam.FlatMap(parse).with_outputs(
      QUARANTINE, main="pairs"
    )
    labelled = (
      parsed.pairs
      | "MeetByContent" >> beam.GroupByKey()
      | "Batch" >> beam.BatchElements(batch_size, batch_size)
      | "Label" >> beam.FlatMap(work).with_outputs(QUARANTINE, main="labels")
    )
    # What comes next may fail and run again; the labels are not paid again.
    labels = labelled.labels | "KeepLabels" >> beam.Reshuffle()
    bad = (parsed[QUARANTINE], labelled[QUARANTINE]) | beam.Flatten()
    return labels, bad

  return LabelPairs()


def parse(row: Any) -> Iterator[Any]:
  """A line (bytes or text) or a dict to (hash of the texts, row)."""
  try:
    pair = json.loads(row) if isinstance(row, bytes | str) else row
    if not isinstance(pair, dict):
      raise ValueError(f"a pair is an object, not {type(pair).__name__}")
    pair = records.from_row(records.Pair, pair)
    # Beam's own coder would stop at half a surrogate pair.
    jsonl.dump_row(records.to_row(pair)).encode("utf-8")
    key = records.content_id(pair.context, pair.first, pair.second)
  except UnicodeEncodeError:
    yield _bad(ascii(row), "half a surrogate pair is no Unicode")
  except (ValueError, TypeError) as error:
    said = jsonl.as_text(row) if isinstance(row, bytes) else str(row)
    yield _bad(said, str(error))
  else:
    yield key, records.to_row(pair)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Batch:
  """Labels a batch of groups; what Beam pickles and sends to the workers."""

  opener: bytes = dataclasses.field(repr=False)
  judge: Any
  store_dir: str

  def __call__(self, groups: Sequence[Group]) -> Iterator[Any]:
    if preemption.requested():
      raise preemption.Preempted("label_beam: stopped")
    same = [
      [records.from_row(records.Pair, row) for row in rows]
      for _, rows in groups
    ]
    firsts = [pairs[0] for pairs in same]
    answering = _open(self.opener)
    quarantine = jsonl.Quarantine()
    found, usage = self._ask(firsts, answering, quarantine)
    labels = {label.id: label for label in found}
    reasons = {bad["row"]["id"]: bad["reason"] for bad in quarantine.rows}
    for pairs in same:
      label = labels.get(pairs[0].id)
      for pair in pairs:
        if label is None:
          yield _bad(records.to_row(pair), reasons[pairs[0].id])
        else:
          own = {"id": pair.id, "source": pair.source}
          yield records.to_row(label) | own
    counted = sum(len(p) for p in same if p[0].id in labels)
    count("labelled", counted)
    for name, number in records.to_row(usage).items():
      count(name, number)

  def _ask(
    self,
    pairs: list[records.Pair],
    answering: Answering,
    quarantine: jsonl.Quarantine,
  ) -> tuple[list[records.Preference], records.Usage]:
    """Labels and what was paid now, through the store where there is one."""
    spent = records.Usage()

    def ask(some):
      nonlocal spent
      found, usage = answering.judge_pairs(
        some,
        answering.backend,
        self.judge,
        tokenizer=answering.tokenizer,
        quarantine=quarantine,
      )
      spent += usage
      return found, usage

    if not self.store_dir:
      return ask(pairs)
    name = answering.backend.name
    labels = store.LabelStore(
      self.store_dir,
      fingerprint=self.judge.fingerprint(name),
      provenance=self.judge.provenance(name),
      writer="beam",
    )
    try:
      labels.fill(pairs, ask, chunk_size=len(pairs))
      return list(labels.labels(pairs)), spent
    finally:
      labels.close()


def _bad(row: Any, reason: str) -> Any:
  """A row for the second output, counted."""
  count("quarantined", 1)
  pvalue = import_beam().pvalue
  return pvalue.TaggedOutput(QUARANTINE, {"row": row, "reason": reason})


def count(name: str, number: int) -> None:
  """Adds to a counter of the pipeline."""
  import_beam().metrics.Metrics.counter(NAMESPACE, name).inc(number)


def counters(result: Any) -> dict[str, int]:
  """What a finished pipeline has counted, over all its steps."""
  counted: dict[str, int] = collections.Counter()
  for found in result.metrics().query()["counters"]:
    if found.key.metric.namespace == NAMESPACE:
      counted[found.key.metric.name] += found.result
  return counted


_lock = threading.Lock()


def _open(opener: bytes) -> Answering:
  """The labeler of this process, whatever thread asks."""
  with _lock:
    return _open_once(opener)


@functools.lru_cache(maxsize=1)
def _open_once(opener: bytes) -> Answering:
  return pickle.loads(opener)()
