# SPDX-License-Identifier: Apache-2.0
"""Win rates of policies by a judge that sees both orders, or by people.

For texts of which no gold is known. A response wins only if the judge prefers
it in both presentation orders, else it is a tie (as in the sister paper,
arXiv 2403.10704). The judge should not be the labeler that a policy learned
from; the page names it. People's rankings come from the `rate` job.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import pathlib
from typing import Any, Mapping

import numpy as np

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.evaluation import compare_report
from rlaif_jax.evaluation import position
from rlaif_jax.evaluation import rankings
from rlaif_jax.evaluation import win_rate
from rlaif_jax.jobs import evaluate
from rlaif_jax.api import labelers
from rlaif_jax.labeling import costs
from rlaif_jax.labeling import endpoint_config
from rlaif_jax.labeling import judge as judge_lib
from rlaif_jax.labeling import store

Pairs = Mapping[tuple[str, str], list[records.Pair]]


def run(
  *,
  output_dir: str,
  runs_dir: str = "",
  responses: Mapping[str, str] | None = None,
  judge: judge_lib.JudgeConfig | None = None,
  labeler_dir: str = "",
  endpoint: endpoint_config.EndpointConfig | None = None,
  tokenizer_dir: str = "",
  rankings_files: tuple[str, ...] = (),
  limit: int = 0,
  chunk_size: int = 256,
  prices: costs.Prices = costs.FREE,
  mesh: str = "data:-1",
  title: str = "Policies side by side",
) -> dict[str, Any]:
  """Writes results.json and compare.html.

  Args:
    output_dir: where both go, and the judge's answers; a second start
      continues there.
    runs_dir: directory that holds the runs.
    responses: policy -> its `sample` run in runs_dir. All answer the same
      contexts, one sample each.
    judge: how a model is asked, in both orders; with labeler_dir or endpoint.
    labeler_dir: finished language model that judges.
    endpoint: served language model that judges.
    tokenizer_dir: the served model's tokenizer; "": three characters a token.
    rankings_files: rankings.jsonl of the `rate` job, one or more raters.
    limit: first contexts only (0: all).
    chunk_size: pairs that are kept at a time.
    prices: of the judge's tokens.
    mesh: devices of the judge.
    title: of the page.
  """
  _check(responses, judge, labeler_dir, endpoint, rankings_files)
  directory = pathlib.Path(output_dir)
  quarantine = jsonl.Quarantine()
  results: dict[str, Any] = {"title": title, "judged": None, "ranked": None}
  if judge is not None:
    labeler = labelers.open_labeler(
      labeler_dir=labeler_dir,
      endpoint=endpoint,
      tokenizer_dir=tokenizer_dir,
      journal_file=f"{output_dir}/answers.jsonl",
      mesh=mesh,
    )
    pairs = read_pairs(pathlib.Path(runs_dir), responses, limit)
    stored = labelers.label(
      lambda: (pair for rows in pairs.values() for pair in rows),
      labeler,
      judge,
      store_dir=f"{output_dir}/store",
      chunk_size=chunk_size,
      prices=prices,
      quarantine=quarantine,
    )
    results["judged"] = {
      "judge": judge.provenance(labeler.backend.name),
      **judged(stored, pairs),
      "usage": records.to_row(stored.usage),
      "cost_usd": round(prices.cost_usd(stored.usage), 4),
    }
  if rankings_files:
    results["ranked"] = ranked(rankings_files)
  jsonl.write_text(
    directory / "results.json",
    json.dumps(results, indent=1, sort_keys=True) + "\n",
  )
  compare_report.write_report(results, directory / "compare.html")
  return {
    "report": str((directory / "compare.html").absolute()),
    "win_rates": {
      f"{kind}: {c['a']} against {c['b']}": c["win_rate"]
      for kind in ("judged", "ranked")
      for c in (results[kind] or {"comparisons": []})["comparisons"]
    },
    "quarantined": quarantine.write(directory / "quarantine.jsonl"),
  }


def _check(responses, judge, labeler_dir, endpoint, rankings_files) -> None:
  """A whole judge, or people's rankings, or both."""
  who = [bool(labeler_dir), endpoint is not None].count(True)
  if judge is None and not rankings_files or who != (judge is not None):
    raise ValueError(
      "compare: give judge with either labeler_dir or endpoint, or "
      f"rankings_files; got judge={judge}, labeler_dir={labeler_dir!r}, "
      f"endpoint={endpoint}, rankings_files={rankings_files}"
    )
  if judge is not None and judge.orders != "both":
    raise ValueError(
      f"compare: judge.orders is {judge.orders!r}; a win must hold in both "
      "orders, so leave it at 'both'"
    )
  if judge is not None and len(responses or ()) < 2:
    raise ValueError(
      f"compare: responses is {responses}; name two policies or more"
    )


def read_pairs(
  root: pathlib.Path, runs: Mapping[str, str], limit: int
) -> Pairs:
  """The responses of each two policies to the contexts of all.

  Raises:
    ValueError: they have no context in common.
  """
  texts, rows = evaluate.read_responses(root, runs)
  order = sorted(set.intersection(*(set(t) for t in texts.values())))
  order = order[:limit] if limit else order
  if not order:
    raise ValueError(
      f"compare: {sorted(runs)} have no context in common; sample all of them "
      "from the same split"
    )
  some = next(iter(rows.values()))
  return {
    (a, b): [
      records.Pair(
        id=records.content_id(a, b, name),
        context=some[name].context,
        first=texts[a][name],
        second=texts[b][name],
      )
      for name in order
    ]
    for a, b in itertools.combinations(texts, 2)
  }


def judged(stored: store.LabelStore, pairs: Pairs) -> dict[str, Any]:
  """Win rates by the judge, and how much the order moves it.

  Equal texts were not asked about: they are a tie in both orders.
  """
  tie = {"p_orders": (0.5, 0.5)}
  labels = {
    names: [
      label if label.p_orders else dataclasses.replace(label, **tie)
      for label in stored.labels(rows)
    ]
    for names, rows in pairs.items()
  }
  asked = {names: len(rows) for names, rows in pairs.items()}
  orders = [label.p_orders for rows in labels.values() for label in rows]
  flat = np.asarray(orders, float).reshape(-1, 2)
  return {
    "comparisons": [
      dataclasses.asdict(c) for c in win_rate.judged_matrix(labels, asked)
    ],
    "order": dataclasses.asdict(position.order_statistics(flat)),
  }


def ranked(files: tuple[str, ...]) -> dict[str, Any]:
  """Win rates by people's ranks, and how well the raters agree."""
  rows = [
    row for path in files for row in jsonl.read_records(rankings.Ranking, path)
  ]
  return {
    "comparisons": [dataclasses.asdict(c) for c in rankings.matrix(rows)],
    "concordance": dataclasses.asdict(rankings.concordance(rows)),
    "raters": sorted({row.rater for row in rows}),
  }
