# SPDX-License-Identifier: Apache-2.0
"""Annotations: orders of their own, and no click is lost."""

from __future__ import annotations

import collections
import json
import threading

import pytest

from rlaif_jax.rating import annotations

NAMES = ("base", "rlhf", "rlaif")


def make_items(count=4):
  return [
    annotations.Item(
      id=f"i{i}",
      context=f"context {i}",
      names=NAMES,
      responses=tuple(f"{name} says {i}" for name in NAMES),
    )
    for i in range(count)
  ]


def open_log(tmp_path, count=4, **settings):
  return annotations.AnnotationLog(
    tmp_path / "annotations.jsonl",
    make_items(count),
    annotations.AnnotationConfig(**settings),
  )


def rank_all(log, rater, order=(0, 1, 2)):
  while view := log.view(rater):
    log.record(
      rater, view.item.id, order, final=True, version=view.annotation.version
    )


def test_what_is_written_is_what_was_meant(tmp_path):
  log = open_log(tmp_path)
  view = log.view("ann")
  assert sorted(view.shown) == sorted(NAMES) and (view.number, view.count) == (
    1,
    4,
  )
  answer = log.record("ann", view.item.id, [2, 0], final=False, version=0)
  assert answer.picks == (view.shown[2], view.shown[0])
  assert log.finished() == []
  # The click is there before the ranking is whole, for another process too.
  log.close()
  again = open_log(tmp_path)
  assert again.view("ann").annotation == answer
  again.record("ann", view.item.id, [2, 0, 1], final=True, version=1)
  (done,) = again.finished()
  assert done.item == view.item.id
  assert done.picks == tuple(view.shown[i] for i in (2, 0, 1))
  assert again.view("ann").number == 2


def test_each_rater_has_an_order_that_stays(tmp_path):
  log = open_log(tmp_path, count=30)
  places = collections.Counter()
  firsts = set()
  for number in range(40):
    rater = f"r{number}"
    firsts.add(log.view(rater).item.id)
    places[log.shown(rater, "i0")[0]] += 1
  assert len(firsts) > 10
  # Every policy comes first sometimes: 40 / 3 with a deviation of 3.
  assert min(places[name] for name in NAMES) >= 4
  log.close()
  assert open_log(tmp_path, count=30).shown("r1", "i0") == log.shown("r1", "i0")
  log.close()


def test_a_rater_may_be_given_a_part(tmp_path):
  log = open_log(tmp_path, count=10, items_per_rater=3)
  for rater in ("ann", "bob"):
    rank_all(log, rater)
  assert log.num_raters_done() == 2
  items = {rater: set() for rater in ("ann", "bob")}
  for answer in log.finished():
    items[answer.rater].add(answer.item)
  assert [len(own) for own in items.values()] == [3, 3]
  assert items["ann"] != items["bob"]


def test_reopen_opens_the_last_one_unless_it_is_frozen(tmp_path):
  log = open_log(tmp_path)
  first = log.view("ann").item.id
  assert log.reopen("ann").item.id == first  # Nothing to go back to.
  log.record("ann", first, [0, 1, 2], final=True, version=0)
  view = log.reopen("ann")
  assert view.item.id == first and len(view.annotation.picks) == 3
  assert log.finished() == []
  log.record(
    "ann", first, [1, 0, 2], final=True, version=view.annotation.version
  )
  (kept,) = log.freeze()
  assert kept.picks[0] == view.shown[1]
  assert log.reopen("ann").item.id != first
  with pytest.raises(annotations.ConflictError):
    log.record("ann", first, [0, 1, 2], final=True, version=kept.version)


def test_a_click_that_comes_twice_or_too_late(tmp_path):
  log = open_log(tmp_path)
  item = log.view("ann").item.id
  click = dict(rater="ann", item=item, picks=[1], final=False, version=0)
  first = log.record(**click)
  assert first.version == 1 and log.record(**click) == first
  assert len((tmp_path / "annotations.jsonl").read_text().splitlines()) == 1
  # Another window that has not seen it.
  with pytest.raises(annotations.ConflictError, match="another window"):
    log.record("ann", item, [2], final=False, version=0)


def test_a_torn_line_goes_and_a_wrong_one_is_named(tmp_path):
  log = open_log(tmp_path)
  rank_all(log, "ann")
  log.close()
  path = tmp_path / "annotations.jsonl"
  whole = path.read_bytes()
  path.write_bytes(whole[:-9])
  log = open_log(tmp_path)
  assert len(log.finished()) == 3
  rank_all(log, "ann")
  assert len(log.finished()) == 4
  log.close()
  path.write_bytes(b'{"rater": "ann"}\n' + whole)
  with pytest.raises(ValueError, match=r"annotations.jsonl:1: not a click"):
    open_log(tmp_path)


def test_two_processes_and_two_modes_are_refused(tmp_path):
  log = open_log(tmp_path)
  with pytest.raises(ValueError, match="in use by another process"):
    open_log(tmp_path)
  rank_all(log, "ann")
  log.close()
  with pytest.raises(ValueError, match="mode is 'rank' and this run's"):
    open_log(tmp_path, mode="harmful")


def test_harmful_ones_are_any_number(tmp_path):
  log = open_log(tmp_path, mode="harmful")
  view = log.view("ann")
  log.record("ann", view.item.id, [], final=True, version=0)
  view = log.view("ann")
  log.record("ann", view.item.id, [0, 2], final=True, version=0)
  assert sorted(len(answer.picks) for answer in log.finished()) == [0, 2]


@pytest.mark.parametrize(
  "change, message",
  [
    ({"rater": "a b"}, "rater's name"),
    ({"rater": ""}, "rater's name"),
    ({"item": "no"}, "no item has the id"),
    ({"picks": [3]}, "from 0 to 2"),
    ({"picks": [1, 1]}, "without repetition"),
    ({"picks": [1], "final": True}, "1 of 3 responses are ranked"),
  ],
)
def test_invalid_annotations_are_refused(tmp_path, change, message):
  log = open_log(tmp_path)
  click = dict(rater="ann", item="i0", picks=[1], final=False, version=0)
  with pytest.raises(ValueError, match=message):
    log.record(**{**click, **change})
  assert (tmp_path / "annotations.jsonl").read_bytes() == b""


def test_raters_click_at_once(tmp_path):
  log = open_log(tmp_path, count=8)
  threads = [
    threading.Thread(target=rank_all, args=(log, f"r{i}")) for i in range(6)
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert len(log.finished()) == 48 and log.num_raters_done() == 6
  lines = (tmp_path / "annotations.jsonl").read_text().splitlines()
  assert len([json.loads(line) for line in lines]) == 48


def test_bad_items(tmp_path):
  with pytest.raises(ValueError, match="1 to 9 responses"):
    annotations.Item(id="i", context="", names=("a", "b"), responses=("x",))
  config = annotations.AnnotationConfig()
  for items in ([], make_items(1) * 2):
    with pytest.raises(ValueError, match="with different ids"):
      annotations.AnnotationLog(tmp_path / "a", items, config)


def test_wrong_settings():
  with pytest.raises(ValueError, match="mode is 'best'"):
    annotations.AnnotationConfig(mode="best")
  with pytest.raises(ValueError, match="items_per_rater is -1"):
    annotations.AnnotationConfig(items_per_rater=-1)
