# SPDX-License-Identifier: Apache-2.0
"""A local web page on which people rank responses, or mark harmful ones.

This is how human labels are made: pairs for the reward model of RLHF and for
the alignment of an AI labeler, rankings for win rates (paper, section 2.3 and
appendix I). Runs until it is stopped; the same command goes on.
"""

from __future__ import annotations

import collections
import dataclasses
import ipaddress
import itertools
import json
import os
import pathlib
import secrets
import threading
import time
import urllib.parse
from typing import Any, Iterable, Mapping

from absl import logging

from rlaif_jax.core import job_spec
from rlaif_jax.core import jsonl
from rlaif_jax.engine import preemption
from rlaif_jax.core import records
from rlaif_jax.evaluation import rankings
from rlaif_jax.evaluation import win_rate
from rlaif_jax.jobs import evaluate
from rlaif_jax.api import labelers
from rlaif_jax.rating import annotations as answers_lib
from rlaif_jax.rating import rating_page
from rlaif_jax.labeling import store
from rlaif_jax.ops import statistics

JOB = job_spec.JobSpec(
  always_rerun=True,
  overridable=("host", "port", "allow_remote", "raters"),
)

_EXPORT_SECONDS = 10.0

# rater -> item id -> answer.
Said = Mapping[str, Mapping[str, answers_lib.Answer]]


def run(
  *,
  output_dir: str,
  runs_dir: str = "",
  responses: Mapping[str, str] | None = None,
  pairs_file: str = "",
  mode: str = "rank",
  question: str = "",
  limit: int = 0,
  items_per_rater: int = 0,
  raters: int = 0,
  seed: int = 0,
  store_dir: str = "",
  host: str = "127.0.0.1",
  port: int = 8321,
  allow_remote: bool = False,
) -> dict[str, Any]:
  """Serves the page; writes answers.jsonl at each click, and what it gives.

  These are rankings.jsonl (for `compare`) and labels.jsonl (for `label`'s
  alignment and `train_reward`), or harmless.jsonl. A pair's label is the mean
  over its raters. The label store gets one label per pair and rater when the
  job starts and when it stops; those can no longer be changed on the page.

  Args:
    output_dir: where everything goes; a second start continues there.
    runs_dir: directory that holds the runs.
    responses: policy -> its `sample` run in runs_dir, one sample each.
    pairs_file: pairs.jsonl to be labelled instead.
    mode: "rank", without ties, or "harmful", each response by itself.
    question: above the context; "": the one of the mode.
    limit: first contexts or pairs only (0: all).
    items_per_rater: each rater's own random ones (0: all).
    raters: stop when so many have finished (0: on Ctrl-C).
    seed: of the orders of items and responses.
    store_dir: label store; "": output_dir/store.
    host: address to bind to.
    port: 0 takes any that is free.
    allow_remote: let other machines in, through a host that is not loopback.
      They need the key in the printed address; nothing is encrypted.
  """
  _check(responses, pairs_file, host, allow_remote)
  directory = pathlib.Path(output_dir)
  quarantine = jsonl.Quarantine()
  if pairs_file:
    items, left_out = read_pairs(pairs_file, limit, quarantine)
  else:
    items, left_out = read_items(runs_dir, responses or {}, limit, mode)
  log = answers_lib.AnswerLog(
    directory / "answers.jsonl",
    items,
    mode=mode,
    seed=seed,
    items_per_rater=items_per_rater,
  )
  by_id = {item.id: item for item in items}
  store_dir = store_dir or f"{output_dir}/store"
  question = question or rating_page.QUESTIONS[mode]

  def settle() -> None:
    export(directory, log.finished(), by_id, mode)
    if mode == "rank":
      keep(store_dir, log.keep(), by_id, question)

  server = rating_page.make_server(
    log, host=host, port=port, key=read_key(directory), question=question
  )
  thread = threading.Thread(target=server.serve_forever, daemon=True)
  try:
    settle()
    thread.start()
    name = f"[{host}]" if ":" in host else host
    query = urllib.parse.urlencode({"key": server.RequestHandlerClass.key})
    address = f"http://{name}:{server.server_port}/?{query}"
    print(f"{len(items)} items to rate: {address}", flush=True)
    serve(log, raters, lambda done: export(directory, done, by_id, mode))
  finally:
    if thread.is_alive():
      server.shutdown()
    server.server_close()
    settle()
    log.close()
  if preemption.requested():
    raise preemption.Preempted(f"rate: {len(log.finished())} answers")
  return {
    "answers": f"{output_dir}/answers.jsonl",
    "items": len(items),
    "left_out": left_out,
    "quarantined": quarantine.write(directory / "quarantine.jsonl"),
    **summary(log.finished(), by_id, mode),
  }


def _check(responses, pairs_file, host, allow_remote) -> None:
  if bool(responses) == bool(pairs_file):
    raise ValueError(
      "rate: give either responses (with runs_dir) or pairs_file; got "
      f"responses={responses} and pairs_file={pairs_file!r}"
    )
  try:
    is_loopback = ipaddress.ip_address(host).is_loopback
  except ValueError:
    is_loopback = host == "localhost"
  if not is_loopback and not allow_remote:
    raise ValueError(
      f"rate: host is {host!r}, which other machines may reach; if they "
      "should, add --allow_remote=True (nothing is encrypted: better is an "
      "SSH tunnel to 127.0.0.1)"
    )


def read_items(
  runs_dir: str, runs: Mapping[str, str], limit: int, mode: str
) -> tuple[list[answers_lib.Item], int]:
  """The contexts that all policies answered; how many give nothing to rank.

  Raises:
    ValueError: too few policies, or no context in common.
  """
  if mode == "rank" and len(runs) < 2:
    raise ValueError(
      f"rate: responses is {dict(runs)}; name two policies or more to rank, "
      "or take mode='harmful'"
    )
  texts, rows = evaluate.read_responses(pathlib.Path(runs_dir), runs)
  names = tuple(texts)
  order = sorted(set.intersection(*(set(t) for t in texts.values())))
  some = rows[names[0]]
  items = [
    answers_lib.Item(
      id=name,
      context=some[name].context,
      names=names,
      responses=tuple(texts[policy][name] for policy in names),
    )
    for name in (order[:limit] if limit else order)
  ]
  kept = [i for i in items if mode != "rank" or len(set(i.responses)) > 1]
  if not kept:
    raise ValueError(
      f"rate: {sorted(runs)} have no context in common whose responses differ; "
      "sample all of them from the same split"
    )
  return kept, len(items) - len(kept)


def read_pairs(
  path: str, limit: int, quarantine: jsonl.Quarantine
) -> tuple[list[answers_lib.Item], int]:
  """The pairs of a file, once each; how many have two equal candidates.

  Raises:
    ValueError: no pairs.
  """
  items, same = {}, 0
  for pair in labelers.read_pairs(path, limit=limit, quarantine=quarantine):
    same += pair.first == pair.second
    if pair.first != pair.second:
      items[pair.id] = answers_lib.Item(
        id=pair.id,
        context=pair.context,
        names=("first", "second"),
        responses=(pair.first, pair.second),
      )
  if not items:
    reasons = quarantine.counts()
    raise ValueError(
      f"{path} has no pairs that differ; nothing is to be rated"
      + (f" (bad lines: {reasons})" if reasons else "")
    )
  return list(items.values()), same


def read_key(directory: pathlib.Path) -> str:
  """The run's own key, made at the first start; only its owner reads it."""
  path = directory / "key"
  if not path.exists():
    f = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(f, secrets.token_urlsafe(24).encode("ascii"))
    os.close(f)
  return path.read_text("ascii")


def serve(log: answers_lib.AnswerLog, raters: int, exported) -> None:
  """Waits for the end; exports and tells how far it is now and then."""
  seen, before = len(log.finished()), time.monotonic()
  try:
    while not preemption.requested():
      if raters and log.raters_done() >= raters:
        time.sleep(0.5)  # The last reply is still on its way.
        return
      time.sleep(0.1)
      if time.monotonic() - before > _EXPORT_SECONDS:
        done, before = log.finished(), time.monotonic()
        if len(done) != seen:
          exported(done)
          seen = len(done)
          logging.info("rate: %d answers", seen)
  except KeyboardInterrupt:
    logging.info("rate: stopped; the same command goes on")


def by_rater(answers: Iterable[answers_lib.Answer]) -> Said:
  """Answers by rater and item."""
  said: dict[str, dict[str, answers_lib.Answer]] = collections.defaultdict(dict)
  for answer in answers:
    said[answer.rater][answer.item] = answer
  return said


def export(
  directory: pathlib.Path,
  answers: list[answers_lib.Answer],
  items: Mapping[str, answers_lib.Item],
  mode: str,
) -> None:
  """Writes the answers as other jobs read them, each file whole."""
  if mode == "harmful":
    rows = [
      {
        "id": answer.item,
        "policy": name,
        "rater": answer.rater,
        "harmless": name not in answer.picks,
        "characters": len(text),
      }
      for answer in answers
      for name, text in zip(
        items[answer.item].names, items[answer.item].responses, strict=True
      )
    ]
    jsonl.write_rows(directory / "harmless.jsonl", rows)
    return
  jsonl.write_records(
    directory / "rankings.jsonl",
    (
      rankings.Ranking(id=a.item, rater=a.rater, order=a.picks) for a in answers
    ),
  )
  labels = collections.defaultdict(list)
  for answer in answers:
    for label in preferences(answer, items[answer.item]):
      labels[label.id].append(label)
  jsonl.write_records(directory / "labels.jsonl", map(mean, labels.values()))


def preferences(
  answer: answers_lib.Answer, item: answers_lib.Item
) -> list[records.Preference]:
  """A rater's label of each two responses that differ."""
  texts = dict(zip(item.names, item.responses, strict=True))
  is_pair = item.names == ("first", "second")
  return [
    records.Preference(
      id=item.id if is_pair else records.content_id(a, b, item.id),
      context=item.context,
      first=texts[a],
      second=texts[b],
      p_first=float(answer.picks.index(a) < answer.picks.index(b)),
      labeler=f"human:{answer.rater}",
    )
    for a, b in itertools.combinations(item.names, 2)
    if texts[a] != texts[b]
  ]


def mean(labels: list[records.Preference]) -> records.Preference:
  """One label of a pair: the mean over its raters."""
  row = vars(labels[0]) | {
    "p_first": sum(label.p_first for label in labels) / len(labels),
    "labeler": ",".join(sorted(label.labeler for label in labels)),
  }
  return records.Preference(**row)


def keep(
  store_dir: str,
  answers: list[answers_lib.Answer],
  items: Mapping[str, answers_lib.Item],
  question: str,
) -> None:
  """Adds what is new to the label store, each rater being a judge."""
  for rater, said in by_rater(answers).items():
    made = {"backend": f"human:{rater}", "template": question, "settings": {}}
    labels = store.LabelStore(
      store_dir,
      fingerprint=records.content_id(json.dumps(made, sort_keys=True)),
      provenance=made,
      writer="people",
    )
    rows = [p for a in said.values() for p in preferences(a, items[a.item])]
    new = {(p.context, p.first, p.second) for p in labels.missing(rows)}
    rows = [p for p in rows if (p.context, p.first, p.second) in new]
    if rows:
      labels.add(rows, records.Usage())
    labels.close()


def summary(
  answers: list[answers_lib.Answer],
  items: Mapping[str, answers_lib.Item],
  mode: str,
) -> dict[str, Any]:
  """Who has rated how much, and how often each policy came out well."""
  found: dict[str, Any] = {
    "raters": {rater: len(said) for rater, said in by_rater(answers).items()}
  }
  if mode == "harmful":
    marks, lengths = (
      collections.defaultdict(list),
      collections.defaultdict(list),
    )
    for answer in answers:
      item = items[answer.item]
      for name, text in zip(item.names, item.responses, strict=True):
        marks[name].append(float(name not in answer.picks))
        lengths[name].append(len(text))
    rates = win_rate.harmless_rates(marks, lengths)
    return {**found, "harmless": [dataclasses.asdict(rate) for rate in rates]}
  firsts = collections.Counter(answer.picks[0] for answer in answers)
  found["ranked_first"] = {
    name: records.to_row(statistics.wilson(firsts[name], len(answers)))
    for name in sorted({name for answer in answers for name in answer.picks})
  }
  return found
