# SPDX-License-Identifier: Apache-2.0
"""Damaged files of every format end in errors that name them.

A sample runs here; `bash launch/fuzz.sh SECONDS` runs for as long as you like.
"""

from __future__ import annotations

import pathlib
import random

import pytest

from rlaif_jax.core import parsing
from tests.fuzz import mutators
from tests.fuzz import runner

# Seeds of each format; 44 formats times 3 are 132 cases in half a minute.
SEEDS = range(3)


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
  found = runner.Runner(tmp_path_factory.mktemp("fuzz") / "corpus")
  yield found
  found.close()


def test_a_sample_of_damaged_files(workers):
  bad = []
  for number, name in runner.names():
    for seed in SEEDS:
      outcome = workers.run(number, seed)
      if outcome.kind not in runner.GOOD:
        bad.append(f"{name} seed {seed}: {outcome}")
  assert not bad, "\n".join(bad)


def test_undamaged_files_are_read(workers):
  for number, name in runner.names():
    outcome = workers.run(number, None)
    assert outcome.kind == "ok", (name, outcome.detail)


@pytest.mark.parametrize(
  "kind", ["hang", "unnamed", "crash", "memory", "refused", "named"]
)
def test_the_harness_sees_what_it_should(monkeypatch, tmp_path, kind):
  """Each outcome, of a reader that behaves in this way."""

  def read(folder: pathlib.Path):
    if kind == "hang":
      while True:
        pass
    if kind == "unnamed":
      raise ValueError("no file")
    if kind == "crash":
      raise KeyError("x")
    if kind == "memory":
      return len(b"x" * (150 << 20))
    if kind == "refused":
      with parsing.naming(folder):
        return len(b"x" * (1 << 40))
    raise ValueError(f"{folder}/x: bad")

  monkeypatch.setattr(runner, "SECONDS", 0.2 if kind == "hang" else 30)
  monkeypatch.setattr(runner, "MEMORY", 100 << 20)
  expected = "memory" if kind == "refused" else kind
  assert runner.measure(read, tmp_path).kind == expected


def test_equal_seeds_give_equal_mutations():
  data = b'{"a": [1, "x", {"b": null}], "c": 2.5}\n' * 2
  for mutate in (mutators.raw, mutators.rows, mutators.texts):
    results = [
      [mutate(data, random.Random(seed)) for seed in range(50)] for _ in "ab"
    ]
    assert results[0] == results[1]
    assert len({out for out, _ in results[0]}) > 25
