# SPDX-License-Identifier: Apache-2.0
"""Measures the gold of package synopses on real text; no test itself.

    python -m tests.measure_gold PAIRS_DIR DATA_DIR LISTS_DIR ENCODER_DIR CSV

PAIRS_DIR is a `sample` run of `debian_synopsis` with two samples a document,
DATA_DIR the output of `prepare`, LISTS_DIR its source. Writes one row per
measure (group, name, value, low, high, n).
"""

from __future__ import annotations

import csv
import dataclasses
import pathlib
import sys
from typing import Callable, Iterator

import numpy as np
from scipy import stats

from rlaif_jax.api import gold_rewards
from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.core import rng
from rlaif_jax.data import debian
from rlaif_jax.evaluation import gold
from rlaif_jax.evaluation import nearness
from rlaif_jax.evaluation import win_rate
from rlaif_jax.model_io import sentence_encoder
from rlaif_jax.ops import statistics
from rlaif_jax.text import prompts

# Test documents whose human lines and copies are scored.
_DOCUMENTS = 512

Measure = tuple[str, str, statistics.Estimate]


@dataclasses.dataclass(frozen=True)
class Samples:
  """Two responses to each of n documents, [2][n], and their gold."""

  documents: list[str]
  texts: list[list[str]]
  finished: np.ndarray
  scores: list[gold.GoldScores]

  def values(self, name: str) -> np.ndarray:
    """Returns a part, or "total", of both responses: [2, n]."""
    return np.stack(
      [s.total if name == "total" else s.parts[name] for s in self.scores]
    )

  def characters(self) -> np.ndarray:
    return np.asarray([[len(t) for t in own] for own in self.texts], float)


def read(path: pathlib.Path, reward: gold.GoldReward) -> Samples:
  rows = jsonl.read_records(records.Response, path / "responses.jsonl")
  halves = [[r for r in rows if r.index == k] for k in range(2)]
  documents = [r.context for r in halves[0]]
  assert documents == [r.context for r in halves[1]]
  texts = [[prompts.strip_trailing_symbols(r.text) for r in h] for h in halves]
  return Samples(
    documents,
    texts,
    np.asarray([[r.finished for r in h] for h in halves]),
    [reward(documents, own) for own in texts],
  )


def siblings(lists_dir: str) -> dict[str, list[str]]:
  """Returns source package -> the synopses of its packages."""
  texts, lists = debian.package_lists(lists_dir)
  sources = debian.source_packages(lists)
  found: dict[str, list[str]] = {}
  for _, fields in (row for file in texts for row in debian.stanzas(file)):
    text = fields.get("Description-en") or ""
    source = sources.get(fields.get("Package", ""))
    if source and text:
      found.setdefault(source, []).append(text.partition("\n")[0].strip())
  return found


def others(
  examples: list[records.Example], lists_dir: str
) -> dict[str, list[str | None]]:
  """Returns kind -> a text for each document; None where there is none."""
  lines = [e.response for e in examples]
  shuffled = []
  for e in examples:
    words = e.response.split()
    order = rng.numpy_generator(0, f"shuffle/{e.id}").permutation(len(words))
    shuffled.append(" ".join(words[i] for i in order))
  own = siblings(lists_dir)
  return {
    "human": lines,
    "human, words shuffled": shuffled,
    "another package of the same source": [
      next((s for s in own[e.source] if s != e.response), None)
      for e in examples
    ],
    "first words of the document": [
      " ".join(e.context.split()[: len(e.response.split())]) for e in examples
    ],
    "another source's line": lines[1:] + lines[:1],
    "empty": [""] * len(lines),
  }


def means(
  samples: Samples,
  documents: list[str],
  texts: dict[str, list[str | None]],
  reward: gold.GoldReward,
) -> Iterator[Measure]:
  """Yields the mean of each kind, and how often one kind beats another."""
  assert documents[: len(samples.documents)] == samples.documents
  scores = {"SmolLM2": samples.scores[0]}
  kept = {"SmolLM2": np.arange(len(samples.documents))}
  for kind, own in texts.items():
    kept[kind] = np.asarray([i for i, t in enumerate(own) if t is not None])
    scores[kind] = reward(
      [documents[i] for i in kept[kind]], [own[i] for i in kept[kind]]
    )
  for kind, found in scores.items():
    yield "mean", kind, statistics.mean(found.total)
    for part, values in found.parts.items():
      yield f"mean {part}", kind, statistics.mean(values)
  rank = [kind for kind in scores if kind not in ("human", "empty")]
  for i, a in enumerate(rank):
    for b in rank[i + 1 :]:
      both = np.intersect1d(kept[a], kept[b])
      x, y = (scores[k].total[np.searchsorted(kept[k], both)] for k in (a, b))
      won = win_rate.wins(x, y)
      yield f"beats {b}", a, statistics.wilson(float(won.sum()), len(won))


def copies(documents: list[str], reward: gold.GoldReward) -> Iterator[Measure]:
  """Yields the gold of copying more and more of the document."""
  for count in (2, 4, 6, 8, 12, 16, 24, 32):
    texts = [" ".join(d.split()[:count]) for d in documents]
    yield (
      "copied words",
      str(count),
      statistics.mean(reward(documents, texts).total),
    )


def bootstrap(
  name: str, value: Callable[[np.ndarray], float], n: int
) -> statistics.Estimate:
  """Returns a statistic of documents with a percentile bootstrap interval."""
  generator = rng.numpy_generator(0, f"bootstrap/{name}")
  draws = [value(generator.integers(0, n, n)) for _ in range(2000)]
  low, high = np.quantile(draws, [0.025, 0.975])
  return statistics.Estimate(
    value=value(np.arange(n)), low=low, high=high, n=n, method="bootstrap"
  )


def lengths(samples: Samples, human: np.ndarray) -> Iterator[Measure]:
  """Yields correlations with length, and how often the longer one wins.

  Args:
    samples: two samples of each document.
    human: characters of the human lines.
  """
  characters = samples.characters()
  n = len(samples.documents)
  subsets = {
    "": np.ones(n, bool),
    ", both finished": samples.finished.all(axis=0),
    ", both longer than the human line": (characters > human).all(axis=0),
  }
  program = [gold.program(samples.documents, own) for own in samples.texts]
  values = {
    name: samples.values(name)
    for name in ("total", "similarity", "chrf", "rules")
  }
  values["the program gold"] = np.stack([s.total for s in program])
  for name, own in values.items():
    for kind, test in (
      ("Pearson", stats.pearsonr),
      ("Spearman", stats.spearmanr),
    ):

      def across(rows, own=own, test=test):
        return test(own[:, rows].ravel(), characters[:, rows].ravel())[0]

      def within(rows, own=own, test=test):
        return test(
          (own[0] - own[1])[rows], (characters[0] - characters[1])[rows]
        )[0]

      yield f"{kind} with length", name, bootstrap(name, across, n)
      yield f"{kind} with length, in a pair", name, bootstrap(name, within, n)
    margin, longer = own[0] - own[1], characters[0] - characters[1]
    for which, rows in subsets.items():
      use = rows & (margin != 0) & (longer != 0)
      right = (margin > 0) == (longer > 0)
      share = statistics.wilson(float(right[use].sum()), int(use.sum()))
      yield f"longer wins{which}", name, share


def agreement(samples: Samples, reward: gold.GoldReward) -> Iterator[Measure]:
  """Yields the agreement of raters, and of the two main parts."""
  pairs = [
    records.Pair(context=d, first=a, second=b)
    for d, a, b in zip(samples.documents, *samples.texts, strict=True)
    if a != b
  ]
  labels = []
  for seed in range(2):
    config = gold.HumanConfig(agreement=0.75, seed=seed)
    own, summary = gold.rate_pairs(pairs, config, reward)
    labels.append(np.asarray([label.p_first for label in own]))
  same = labels[0] == labels[1]
  n = len(pairs)
  noiseless = gold.expected_agreement(gold.margins(pairs, reward), 1e-6)
  for name, value in (
    ("expected of two raters", summary["agreement"]),
    ("temperature", summary["temperature"]),
    ("expected of raters without noise", noiseless),
  ):
    exact = statistics.Estimate(
      value=value, low=value, high=value, n=n, method="exact"
    )
    yield "raters", name, exact
  yield "raters", "agreement of seeds 0 and 1", statistics.wilson(same.sum(), n)
  margins = gold.margins(pairs, reward)
  right = (labels[0] > 0.5) == (margins > 0)
  yield "raters", "a rater agrees with gold", statistics.wilson(right.sum(), n)
  longer = np.asarray([len(p.first) - len(p.second) for p in pairs])
  use = longer != 0
  wins = ((labels[0] > 0.5) == (longer > 0))[use]
  share = statistics.wilson(wins.sum(), int(use.sum()))
  yield "raters", "the longer one wins", share
  a, b = (samples.values(name) for name in ("similarity", "chrf"))
  first, second = a[0] - a[1], b[0] - b[1]
  use = (first != 0) & (second != 0)
  share = statistics.wilson(
    ((first > 0) == (second > 0))[use].sum(), int(use.sum())
  )
  yield "parts", "similarity and chrF pick the same text", share
  docs = len(samples.documents)
  yield (
    "parts",
    "Spearman of similarity and chrF",
    bootstrap(
      "parts",
      lambda rows: stats.spearmanr(a[:, rows].ravel(), b[:, rows].ravel())[0],
      docs,
    ),
  )


def main(pairs_dir, data_dir, lists_dir, encoder_dir, output) -> None:
  """Prints and writes all measures."""
  folder = f"{data_dir}/debian_synopsis"
  encoder = sentence_encoder.load(encoder_dir)
  reward = nearness.reward(gold_rewards.read_human_lines(folder), encoder.embed)
  samples = read(pathlib.Path(pairs_dir), reward)
  rows = jsonl.read_records(records.Example, f"{folder}/test.jsonl")
  examples = rows[:_DOCUMENTS]
  documents = [e.context for e in examples]
  measures = [
    *means(samples, documents, others(examples, lists_dir), reward),
    *copies(documents, reward),
    *lengths(
      samples,
      np.asarray([len(e.response) for e in examples[: len(samples.documents)]])[
        None
      ],
    ),
    *agreement(samples, reward),
    (
      "samples",
      "characters of SmolLM2",
      statistics.mean(samples.characters()[0]),
    ),
    (
      "samples",
      "characters of the human line",
      statistics.mean([len(e.response) for e in examples]),
    ),
    ("samples", "finished", statistics.mean(samples.finished[0])),
  ]
  with open(output, "w", newline="", encoding="utf-8") as f:
    writer = csv.writer(f, lineterminator="\n")
    writer.writerow(("measure", "of", "value", "low", "high", "n"))
    for group, name, e in measures:
      numbers = [f"{x:.4f}" for x in (e.value, e.low, e.high)]
      writer.writerow((group, name, *numbers, e.n))
      print(f"{group:32} {name:36}", *numbers, e.n)


if __name__ == "__main__":
  main(*sys.argv[1:6])
