# SPDX-License-Identifier: Apache-2.0
"""The `rate` job without a browser: what it reads, serves and exports."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time

import pytest

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.evaluation import rankings
from rlaif_jax.evaluation import policy_comparison
from rlaif_jax.jobs import rate_responses
from rlaif_jax.labeling import pair_source
from rlaif_jax.rating import rating_page

POLICIES = ("best", "middle", "worst")


@pytest.fixture
def runs(tmp_path):
  for policy in POLICIES:
    jsonl.write_records(
      tmp_path / policy / "responses.jsonl",
      [
        records.Response(
          id=f"i{i}",
          index=0,
          context=f"context {i}",
          text="all the same" if i == 4 else f"{policy} {i}",
          tokens=2,
          finished=True,
        )
        for i in range(5)
      ],
    )
  return tmp_path


@pytest.fixture
def pairs_file(tmp_path):
  rows = [
    records.Pair(id=f"p{i}", context=f"c{i}", first="good", second=second)
    for i, second in enumerate(("bad", "bad ", "good"))
  ]
  jsonl.write_records(tmp_path / "pairs.jsonl", rows)
  return tmp_path / "pairs.jsonl"


def free_port():
  with socket.socket() as found:
    found.bind(("127.0.0.1", 0))
    return found.getsockname()[1]


def rate_all(port, key_file, rater, order):
  """A rater who ranks by `order` of the texts' first words."""
  until = time.monotonic() + 30
  while time.monotonic() < until:
    try:
      connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
      connection.connect()
      break
    except OSError:
      time.sleep(0.05)
  headers = {rating_page.KEY_HEADER: key_file.read_text()}

  def ask(method, path, row=None):
    connection.request(method, path, row and json.dumps(row), headers)
    return json.loads(connection.getresponse().read())

  view = ask("GET", f"/view?rater={rater}")
  while not view["done"]:
    texts = view["responses"]
    picks = sorted(
      range(len(texts)), key=lambda place: order.index(texts[place].split()[0])
    )
    click = {"rater": rater, "item": view["item"], "picks": picks}
    view = ask("POST", "/annotate", {**click, "final": True, "version": 0})


def run_with(raters, out, **arguments):
  """Runs the job while the raters rate; its result."""
  port = free_port()
  threads = [
    threading.Thread(target=rate_all, args=(port, out / "key", name, order))
    for name, order in raters.items()
  ]
  for thread in threads:
    thread.start()
  result = rate_responses.run(
    output_dir=str(out),
    server=rating_page.ServerConfig(port=port),
    raters=len(raters),
    **arguments,
  )
  for thread in threads:
    thread.join()
  return result


def test_rankings_labels_and_store_are_those_of_the_raters(runs, capsys):
  out = runs / "rated"
  raters = {
    "ann": ["best", "middle", "worst"],
    "bob": ["best", "worst", "middle"],
  }
  result = run_with(
    raters, out, runs_dir=str(runs), responses={p: p for p in POLICIES}
  )
  assert "items to rate: http://127.0.0.1:" in capsys.readouterr().out
  assert result["raters"] == {"ann": 4, "bob": 4}
  assert (result["items"], result["left_out"]) == (4, 1)
  assert result["ranked_first"]["best"]["value"] == 1.0
  rows = jsonl.read_records(rankings.Ranking, out / "rankings.jsonl")
  assert len(rows) == 8
  assert all(list(row.order) == raters[row.rater] for row in rows)
  labels = jsonl.read_records(records.Preference, out / "labels.jsonl")
  wanted = {("best", "middle"): 1.0, ("best", "worst"): 1.0}
  wanted["middle", "worst"] = 0.5  # Two raters, opposite answers.
  assert len(labels) == 12
  for label in labels:
    names = label.first.split()[0], label.second.split()[0]
    assert label.p_first == wanted[names]
    assert label.labeler == "human:ann,human:bob"
  found = policy_comparison.compare_by_rankings(rows)
  rates = {(c["a"], c["b"]): c["win_rate"] for c in found["comparisons"]}
  assert rates["best", "worst"]["value"] == 1.0
  # A second start has nothing to add to the store.
  again = rate_responses.run(
    output_dir=str(out),
    runs_dir=str(runs),
    responses={p: p for p in POLICIES},
    server=rating_page.ServerConfig(port=0),
    raters=2,
  )
  assert again["raters"] == result["raters"]
  store = (out / "store" / "people.jsonl").read_bytes()
  chunks = [json.loads(line) for line in store.splitlines()]
  assert {c["judge"]["backend"] for c in chunks} == {"human:ann", "human:bob"}
  assert [len(chunk["labels"]) for chunk in chunks] == [12, 12]


def test_pairs_keep_their_ids(pairs_file, tmp_path):
  out = tmp_path / "rated"
  result = run_with({"ann": ["good", "bad"]}, out, pairs_file=str(pairs_file))
  assert (result["items"], result["left_out"]) == (2, 1)
  labels = jsonl.read_records(records.Preference, out / "labels.jsonl")
  assert [(row.id, row.p_first) for row in labels] == [("p0", 1.0), ("p1", 1.0)]
  source = pair_source.PairSource(pairs_file=str(pairs_file))
  pairs = {pair.id: pair for pair in source.read()}
  assert all(row.second == pairs[row.id].second for row in labels)


@pytest.mark.parametrize(
  "change, message",
  [
    ({"pairs_file": "x"}, "set exactly one"),
    ({"responses": {}}, "set exactly one"),
    ({"responses": {"best": "best"}}, "set two or more"),
  ],
)
def test_wrong_settings(runs, change, message):
  arguments = {"runs_dir": str(runs), "responses": {p: p for p in POLICIES}}
  with pytest.raises(ValueError, match=message):
    rate_responses.run(output_dir=str(runs / "out"), **{**arguments, **change})
