# SPDX-License-Identifier: Apache-2.0
"""Writes annotations as rankings, preferences, harmless rates and labels."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import json
import pathlib
from typing import Iterable, Mapping, Sequence

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.evaluation import rankings
from rlaif_jax.evaluation import win_rate
from rlaif_jax.labeling import store
from rlaif_jax.ops import statistics
from rlaif_jax.rating import annotations as annotations_lib

Annotations = Sequence[annotations_lib.Annotation]
Items = Mapping[str, annotations_lib.Item]  # by id


def write(
  directory: pathlib.Path, annotations: Annotations, items: Items, mode: str
) -> None:
  """Writes the files that other jobs read, each atomically.

  "rank" writes rankings.jsonl and labels.jsonl, where the label of a pair is
  the mean over its raters; "harmful" writes harmless.jsonl.
  """
  if mode == "harmful":
    rows = [
      {
        "id": annotation.item,
        "policy": name,
        "rater": annotation.rater,
        "harmless": name not in annotation.picks,
        "characters": len(text),
      }
      for annotation in annotations
      for name, text in _responses(items[annotation.item])
    ]
    jsonl.write_rows(directory / "harmless.jsonl", rows)
    return
  jsonl.write_records(
    directory / "rankings.jsonl",
    (
      rankings.Ranking(id=a.item, rater=a.rater, order=a.picks)
      for a in annotations
    ),
  )
  labels = collections.defaultdict(list)
  for annotation in annotations:
    for label in preferences(annotation, items[annotation.item]):
      labels[label.id].append(label)
  jsonl.write_records(directory / "labels.jsonl", map(_mean, labels.values()))


def preferences(
  annotation: annotations_lib.Annotation, item: annotations_lib.Item
) -> list[records.Preference]:
  """Returns a rater's preference for each two different responses."""
  texts = dict(_responses(item))
  is_pair = item.names == ("first", "second")
  return [
    records.Preference(
      id=item.id if is_pair else records.content_id(a, b, item.id),
      context=item.context,
      first=texts[a],
      second=texts[b],
      p_first=float(annotation.picks.index(a) < annotation.picks.index(b)),
      labeler=f"human:{annotation.rater}",
    )
    for a, b in itertools.combinations(item.names, 2)
    if texts[a] != texts[b]
  ]


def add_to_store(
  store_dir: str, annotations: Annotations, items: Items, question: str
) -> None:
  """Adds new preferences to a label store, with each rater as a judge."""
  for rater, own in _by_rater(annotations).items():
    provenance = {
      "backend": f"human:{rater}",
      "template": question,
      "settings": {},
    }
    labels = store.LabelStore(
      store_dir,
      fingerprint=records.content_id(json.dumps(provenance, sort_keys=True)),
      provenance=provenance,
      writer="people",
    )
    rows = [p for a in own for p in preferences(a, items[a.item])]
    new = {(p.context, p.first, p.second) for p in labels.missing(rows)}
    rows = [p for p in rows if (p.context, p.first, p.second) in new]
    if rows:
      labels.add(rows, records.Usage())
    labels.close()


def summarize(annotations: Annotations, items: Items, mode: str) -> records.Row:
  """Returns counts per rater, and first ranks or harmless rates per policy."""
  summary: records.Row = {
    "raters": {rater: len(own) for rater, own in _by_rater(annotations).items()}
  }
  if mode == "rank":
    firsts = collections.Counter(a.picks[0] for a in annotations)
    summary["ranked_first"] = {
      name: records.to_row(statistics.wilson(firsts[name], len(annotations)))
      for name in sorted({name for a in annotations for name in a.picks})
    }
    return summary
  harmless, lengths = (collections.defaultdict(list) for _ in range(2))
  for annotation in annotations:
    for name, text in _responses(items[annotation.item]):
      harmless[name].append(float(name not in annotation.picks))
      lengths[name].append(len(text))
  rates = win_rate.harmless_rates(harmless, lengths)
  return {**summary, "harmless": [dataclasses.asdict(rate) for rate in rates]}


def _responses(item: annotations_lib.Item) -> Iterable[tuple[str, str]]:
  """Yields (name, response)."""
  return zip(item.names, item.responses, strict=True)


def _by_rater(
  annotations: Annotations,
) -> dict[str, list[annotations_lib.Annotation]]:
  by_rater = collections.defaultdict(list)
  for annotation in annotations:
    by_rater[annotation.rater].append(annotation)
  return by_rater


def _mean(labels: Sequence[records.Preference]) -> records.Preference:
  """Returns one label of a pair: the mean over its raters."""
  return dataclasses.replace(
    labels[0],
    p_first=sum(label.p_first for label in labels) / len(labels),
    labeler=",".join(sorted(label.labeler for label in labels)),
  )
