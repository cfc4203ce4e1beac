# SPDX-License-Identifier: Apache-2.0
"""Ratings in chunks on disk: resumed, committed, never requested twice."""

from __future__ import annotations

import pytest

from rlaif_jax.core import records
from rlaif_jax.engine import preemption
from rlaif_jax.labeling import rating_file

EXAMPLES = [
  records.Example(id=f"e{i}", context="c", response=f"r{i}") for i in range(7)
]


class Rater:
  """Rates all examples but those that it is told to drop."""

  def __init__(self, drop=()):
    self.drop, self.calls, self.commits = drop, [], []

  def __call__(self, examples):
    self.calls.append([example.id for example in examples])
    ratings = [
      records.Rating(
        id=e.id,
        context=e.context,
        response=e.response,
        score=float(e.id[1:]),
        probabilities=(1.0,),
        labeler="test",
      )
      for e in examples
      if e.id not in self.drop
    ]
    return ratings, records.Usage(requests=len(ratings))

  def run(self, path, judge="judge"):
    return rating_file.rate_in_chunks(
      path,
      EXAMPLES,
      self,
      judge=judge,
      chunk_size=3,
      commit=self.commits.append,
    )


def test_chunks_of_an_earlier_run_are_read(tmp_path):
  first = Rater()
  ratings, usage = first.run(tmp_path / "r.jsonl")
  assert [len(call) for call in first.calls] == [3, 3, 1]
  assert first.commits == [True] * 3
  assert [row.score for row in ratings] == [float(i) for i in range(7)]
  again = Rater()
  assert again.run(tmp_path / "r.jsonl") == (ratings, usage)
  assert again.calls == again.commits == [] and usage.requests == 7


def test_a_chunk_with_a_missing_rating_is_not_complete(tmp_path):
  rater = Rater(drop=("e4",))
  ratings, _ = rater.run(tmp_path / "r.jsonl")
  assert rater.commits == [True, False, True] and len(ratings) == 6


def test_a_stop_and_an_incomplete_line(tmp_path, monkeypatch):
  path = tmp_path / "r.jsonl"
  monkeypatch.setattr(preemption, "requested", lambda: True)
  with pytest.raises(preemption.Preempted, match="after chunk 1"):
    Rater().run(path)
  monkeypatch.undo()
  path.write_bytes(path.read_bytes() + b'{"ratings": [')
  rater = Rater()
  ratings, usage = rater.run(path)
  assert rater.calls == [["e3", "e4", "e5"], ["e6"]]
  assert len(ratings) == usage.requests == 7


def test_ratings_of_a_replaced_labeler_are_not_mixed_in(
  tmp_path, monkeypatch, caplog
):
  path = tmp_path / "r.jsonl"
  monkeypatch.setattr(preemption, "requested", lambda: True)
  with pytest.raises(preemption.Preempted):
    Rater().run(path, "old")
  monkeypatch.undo()
  for asked in (3, 0):  # The second start has its own.
    rater = Rater()
    ratings, usage = rater.run(path, "new")
    assert len(rater.calls) == asked
    assert len(ratings) == usage.requests == 7
  assert "1 chunks are of another labeler" in caplog.text


@pytest.mark.parametrize(
  "line, message",
  [
    ("[]", "expected an object"),
    ('{"judge": "judge", "usage": {}}', "'ratings' is missing"),
  ],
)
def test_a_damaged_chunk_is_named(tmp_path, line, message):
  path = tmp_path / "ratings.partial.jsonl"
  path.write_text(line + "\n")
  with pytest.raises(ValueError, match=f"partial.jsonl:1: .*{message}"):
    Rater().run(path)
