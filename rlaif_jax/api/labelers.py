# SPDX-License-Identifier: Apache-2.0
"""Opens a labeler, a Flax model or an endpoint, and labels through the store.

What the jobs `label` and `audit` share.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Callable, Iterator

from rlaif_jax.core import jsonl
from rlaif_jax.engine import preemption
from rlaif_jax.core import protocols
from rlaif_jax.core import records
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.engine import metrics
from rlaif_jax.model_io import pretrained
from rlaif_jax.labeling import costs
from rlaif_jax.labeling import endpoint as endpoint_lib
from rlaif_jax.labeling import endpoint_config
from rlaif_jax.labeling import journal
from rlaif_jax.labeling import judge as judge_lib
from rlaif_jax.labeling import likelihood
from rlaif_jax.labeling import store
from rlaif_jax.text import estimates
from rlaif_jax.text import tokenizers


# How pairs are judged, and the module that does it.
Judge = judge_lib.JudgeConfig | likelihood.LikelihoodConfig
JUDGING = {
  judge_lib.JudgeConfig: judge_lib,
  likelihood.LikelihoodConfig: likelihood,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labeler:
  """Who labels, the tokenizer that counts, and what a stored chunk calls."""

  backend: protocols.Backend
  tokenizer: protocols.Tokenizer
  settle: Callable[[bool], None] = lambda complete: None


def open_tokenizer(labeler_dir: str, tokenizer_dir: str) -> protocols.Tokenizer:
  """The labeler's own, the one that is named, or an estimate."""
  if labeler_dir or tokenizer_dir:
    return tokenizers.load_tokenizer(labeler_dir or tokenizer_dir)
  return estimates.EstimatedTokenizer()


def check(
  judge: Judge | None,
  labeler_dir: str,
  endpoint: endpoint_config.EndpointConfig | None,
) -> None:
  """One labeler, and a judge that can ask it.

  Raises:
    ValueError: not so.
  """
  if judge is None or bool(labeler_dir) == (endpoint is not None):
    raise ValueError(
      "give judge with either labeler_dir or endpoint; got "
      f"judge={judge}, labeler_dir={labeler_dir!r}, endpoint={endpoint}"
    )
  if endpoint is not None and isinstance(judge, likelihood.LikelihoodConfig):
    raise ValueError(
      "endpoints do not tell the likelihood of a given text; take a "
      "JudgeConfig, or a model of your own as labeler_dir"
    )


def open_labeler(
  *,
  labeler_dir: str = "",
  endpoint: endpoint_config.EndpointConfig | None = None,
  tokenizer_dir: str = "",
  journal_file: str,
  mesh: str,
) -> Labeler:
  """A model of this process, or a served one with a journal of answers.

  Without a journal ("") several threads may ask the served one.
  """
  tokenizer = open_tokenizer(labeler_dir, tokenizer_dir)
  if endpoint is None:
    loaded = pretrained.load(labeler_dir, "language", mesh_lib.make_mesh(mesh))
    return Labeler(backend=loaded.backend(), tokenizer=loaded.tokenizer)
  served = endpoint_lib.EndpointBackend(endpoint)
  if not journal_file:
    return Labeler(backend=served, tokenizer=tokenizer)
  backend = journal.JournaledBackend(served, journal_file)
  return Labeler(
    backend=backend,
    tokenizer=tokenizer,
    settle=lambda complete: backend.settle(complete=complete),
  )


def read_pairs(
  path: str,
  *,
  limit: int = 0,
  shard: str = "0/1",
  quarantine: jsonl.Quarantine | None = None,
) -> Iterator[records.Pair]:
  """Pairs of a file of any length: those of a shard among the first `limit`.

  The pairs of human preferences will do, too. Lines that are no pairs go to
  `quarantine`; None makes one an error.

  Raises:
    ValueError: `shard` is not "k/n" with 0 <= k < n.
  """
  number, _, count = shard.partition("/")
  is_shard = number.isdecimal() and count.isdecimal()
  if not is_shard or int(number) >= int(count):
    raise ValueError(
      f"shard is {shard!r}; it should be 'k/n' with k from 0 to n - 1, such as "
      "'0/4'"
    )
  rows = jsonl.stream_rows(path, records.pair_of_row, quarantine)
  for pair in itertools.islice(rows, limit or None):
    name = records.content_id(pair.context, pair.first, pair.second)
    if int(name, 16) % int(count) == int(number):
      yield pair


def label(
  pairs: Callable[[], Iterator[records.Pair]],
  labeler: Labeler,
  config: Judge,
  *,
  store_dir: str,
  chunk_size: int = 512,
  prices: costs.Prices = costs.FREE,
  budget_usd: float = 0.0,
  quarantine: jsonl.Quarantine,
) -> store.LabelStore:
  """Fills the store with labels of the pairs, paying for what is missing.

  Args:
    pairs: begins the stream of pairs anew each time.
    labeler: who labels.
    config: how.
    store_dir: directory of the store.
    chunk_size: pairs that are stored at a time.
    prices: of the labeler's tokens.
    budget_usd: see `costs.within_budget`.
    quarantine: takes pairs without an answer.

  Raises:
    preemption.Preempted: asked to stop, or the budget is spent; all that was
      paid is stored.
  """
  backend, judging = labeler.backend, JUDGING[type(config)]
  labels = store.LabelStore(
    store_dir,
    fingerprint=config.fingerprint(backend.name),
    provenance=config.provenance(backend.name),
  )
  count = sum(1 for _ in pairs())
  progress = metrics.Progress("label", count, unit="pairs")
  complete: bool | None = None  # of the chunk that was just asked for

  def ask(some):
    nonlocal complete
    found, usage = judging.judge_pairs(
      some,
      backend,
      config,
      tokenizer=labeler.tokenizer,
      quarantine=quarantine,
    )
    complete = len(found) == len(some)
    return found, usage

  def update(done):
    nonlocal complete
    if complete is not None:
      labeler.settle(complete)
      complete = None
    spent = prices.cost_usd(labels.usage)
    progress.update(done, f"${spent:.2f}" if spent else "")
    if preemption.requested():
      raise preemption.Preempted(f"label: stopped after {done} pairs")

  careful = costs.within_budget(
    ask,
    budget_usd=budget_usd,
    prices=prices,
    spent=lambda: labels.usage,
    expect=lambda pair: judging.expected_usage(pair, config, labeler.tokenizer),
  )
  try:
    labels.fill(pairs(), careful, chunk_size=chunk_size, progress=update)
  except costs.BudgetSpent as spent:
    raise preemption.Preempted(f"label: {spent}") from spent
  return labels
