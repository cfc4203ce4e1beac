# SPDX-License-Identifier: Apache-2.0
"""Tests of rlaif_jax.data.tasks; the first one imports TensorFlow."""

from __future__ import annotations

import itertools
import json

import pytest

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.data import pipeline
from rlaif_jax.data import tasks

seqio = pytest.importorskip("seqio")


def write_hh(root, count: int):
  for name in ("helpful", "harmless"):
    for file, begin in (("train", 0), ("test", count)):
      path = root / f"{name}-base" / f"{file}.jsonl"
      path.parent.mkdir(parents=True, exist_ok=True)
      start = f"\n\nHuman: {name} "
      rows = [
        {
          "chosen": f"{start}{i}?\n\nAssistant: yes",
          "rejected": f"{start}{i}?\n\nAssistant: no",
        }
        for i in range(begin, begin + count)
      ]
      path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return str(root)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """(cache directory, names) of registered tasks, twice over."""
  root = tmp_path_factory.mktemp("seqio")
  source = write_hh(root / "hh", 40)
  sources = {"helpful": source, "harmless": source}
  tasks.register(cache_dir=str(root / "elsewhere"))
  names = tasks.register(cache_dir=str(root / "cache"), sources=sources)
  return str(root / "cache"), names


def rows_of(name: str, split: str):
  dataset = seqio.get_mixture_or_task(name).get_dataset(
    sequence_length=None, split=split, shuffle=False
  )
  return list(dataset.as_numpy_iterator())


def test_all_tasks_and_mixtures_are_there(made):
  _, names = made
  assert set(names) == {*pipeline.TASKS, *tasks.MIXTURES}
  for name in names:
    provider = seqio.get_mixture_or_task(name)
    if name in pipeline.TASKS:
      assert tuple(provider.splits) == pipeline.TASKS[name].splits


def test_a_task_has_the_rows_of_the_pipeline(made):
  cache, _ = made
  rows = rows_of("helpful", "train")
  expected = pipeline.load_preferences("helpful", "train", cache_dir=cache)
  assert len(rows) == len(expected) == 40
  for row, preference in zip(rows, expected, strict=True):
    texts = {k: v.decode() for k, v in row.items() if isinstance(v, bytes)}
    assert (
      records.Preference(
        **texts,
        p_first=float(row["p_first"]),
        confidence=int(row["confidence"]),
      )
      == preference
    )


def test_the_mixture_draws_from_both(made):
  mixture = seqio.get_mixture_or_task("hh_preferences").get_dataset(
    sequence_length=None, split="train", shuffle=False, num_epochs=1
  )
  rows = list(itertools.islice(mixture.as_numpy_iterator(), 30))
  count = sum(b"helpful" in row["context"] for row in rows)
  assert len(rows) == 30 and 5 <= count <= 25


def test_examples_have_four_features(made):
  provider = seqio.get_mixture_or_task("docstring_summary")
  assert set(provider.output_features) == {
    "id", "context", "response", "source"
  }  # fmt: skip
  mixture = seqio.get_mixture_or_task("summary_examples")
  assert set(mixture.output_features) == set(provider.output_features)


def test_unknown_sources_are_an_error(tmp_path):
  with pytest.raises(ValueError, match="sources names"):
    tasks.register(cache_dir=str(tmp_path), sources={"helpfull": "x"})


def test_labels_are_a_task_of_soft_preferences(tmp_path):
  labels = [
    records.Preference(
      id=f"p{i}",
      context="é",
      first="a",
      second="b",
      p_first=i / 4,
      labeler="l",
      p_orders=(0.1, 0.2),
    )
    for i in range(5)
  ]
  path = tmp_path / "labels.jsonl"
  jsonl.write_records(path, labels)
  for _ in range(2):  # registering again replaces
    tasks.register_labels("my_labels", labels_file=str(path))
  rows = rows_of("my_labels", "train")
  assert [row["p_first"] for row in rows] == [0.0, 0.25, 0.5, 0.75, 1.0]
  assert rows[0]["context"].decode() == "é" and "p_orders" not in rows[0]
  with pytest.raises(ValueError, match="run the label job first"):
    tasks.register_labels("x", labels_file=str(tmp_path / "none"))
