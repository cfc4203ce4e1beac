# SPDX-License-Identifier: Apache-2.0
"""Loads a labeler (a model in this process or an endpoint) and labels pairs.

`label_pairs` keeps the labels in a store on disk, so that a killed run resumes
without paying twice. To label in memory, call `labeling.judges.judge_pairs`.
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any, Callable, Iterable, Iterator, Mapping

from rlaif_jax.core import compute as compute_lib
from rlaif_jax.core import jsonl
from rlaif_jax.core import protocols
from rlaif_jax.core import records
from rlaif_jax.core import user_functions
from rlaif_jax.core import validation
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.engine import metrics
from rlaif_jax.engine import preemption
from rlaif_jax.labeling import costs
from rlaif_jax.labeling import endpoint as endpoint_lib
from rlaif_jax.labeling import endpoint_config
from rlaif_jax.labeling import function_judge
from rlaif_jax.labeling import journal
from rlaif_jax.labeling import judges
from rlaif_jax.labeling import likelihood_judge
from rlaif_jax.labeling import pair_source
from rlaif_jax.labeling import store
from rlaif_jax.model_io import pretrained
from rlaif_jax.text import estimates
from rlaif_jax.text import tokenizers


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelerConfig:
  """A labeler: exactly one of `labeler_dir`, `endpoint` and `backend`.

  The default, with none of them, stands for no labeler.

  Fields:
    labeler_dir: directory of a finished language model.
    endpoint: an OpenAI-compatible endpoint.
    backend: your own `core.protocols.Backend`, or the import path of a class
      or function ("package.module:name") that returns one.
    backend_options: keyword arguments of an import path.
    tokenizer_dir: directory of the tokenizer of an endpoint or backend, used to
      truncate contexts and to estimate costs; "" assumes three characters per
      token.
    prices: prices of the labeler's tokens.
    mesh: sizes of the mesh axes for `labeler_dir`; see `engine.mesh.make_mesh`.
    attention: how the model in `labeler_dir` attends; see
      `compute.ComputeConfig`.
  """

  labeler_dir: str = ""
  endpoint: endpoint_config.EndpointConfig | None = None
  backend: protocols.Backend | str | None = None
  backend_options: Mapping[str, object] | None = None
  tokenizer_dir: str = ""
  prices: costs.Prices = costs.FREE
  mesh: str = "data:-1"
  attention: compute_lib.Attention = "auto"

  @property
  def is_set(self) -> bool:
    return bool(self.labeler_dir or self.backend) or self.endpoint is not None

  def load_backend(self) -> protocols.Backend:
    """Returns the user's own backend.

    Raises:
      ValueError: if it cannot be imported, or lacks a part of the contract.
    """
    what, found = "LabelerConfig.backend", self.backend
    if isinstance(found, str):
      make = user_functions.load(found, what)
      found = make(**(self.backend_options or {}))
    needed = ("name", "score_options", "prefix_options")
    lacks = [name for name in needed if not hasattr(found, name)]
    if lacks:
      raise ValueError(
        f"{what} is {self.backend!r}, which has no {', '.join(lacks)}; it must "
        f"have {needed} of rlaif_jax.core.protocols.Backend"
      )
    return found

  def load_tokenizer(self) -> protocols.Tokenizer:
    """Loads the tokenizer of the model or endpoint, or an estimate of it."""
    if self.labeler_dir or self.tokenizer_dir:
      return tokenizers.load_tokenizer(self.labeler_dir or self.tokenizer_dir)
    return estimates.EstimatedTokenizer()


NO_LABELER = LabelerConfig()


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoreConfig(validation.Validated):
  """Settings of a label store.

  Fields:
    store_dir: directory of the store, which several processes may share; "" is
      "store" in the output directory.
    chunk_size: number of pairs that are stored at a time. A kill loses at most
      one chunk of a model in this process, and no output of an endpoint.
    budget_usd: stop before the labels in the store cost more; 0 is no limit. An
      endpoint reserves it for each request, other labelers for each chunk.
  """

  store_dir: str = ""
  chunk_size: validation.PositiveInt = 512
  budget_usd: validation.NonNegativeFloat = 0.0


DEFAULT_STORE = StoreConfig()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labeler:
  """A loaded labeler.

  Fields:
    backend: language model.
    tokenizer: tokenizer of the backend, or an estimate of it.
    prices: prices of the labeler's tokens.
    commit: called after a chunk of labels is stored; its argument tells whether
      all pairs of the chunk have labels.
    served: the endpoint behind `backend`, which keeps the budget; None without
      one.
    pending: returns the usage that is not yet in the label store.
  """

  # protocols.Backend, and protocols.LikelihoodBackend of a model; None if a
  # function judge has no labeler.
  backend: Any
  tokenizer: protocols.Tokenizer
  prices: costs.Prices = costs.FREE
  commit: Callable[[bool], None] = lambda complete: None
  served: endpoint_lib.EndpointBackend | None = None
  pending: Callable[[], records.Usage] = records.Usage

  @property
  def name(self) -> str:
    """The backend's name; "" if there is none."""
    return self.backend.name if self.backend is not None else ""


def check(config: LabelerConfig, judge: judges.Judge | None) -> None:
  """Checks that there is one labeler and that it supports the judge.

  A function judge may have no labeler.

  Raises:
    ValueError: no judge, not one labeler, or one without likelihoods for it.
  """
  if judge is None:
    raise ValueError(
      "judge is not set; set it, for example to @PairwiseJudgeConfig()"
    )
  is_function = isinstance(judge, function_judge.FunctionJudgeConfig)
  if is_function and not config.is_set:
    return
  check_labeler(config)
  is_likelihood = isinstance(judge, likelihood_judge.LikelihoodJudgeConfig)
  if is_likelihood and not config.labeler_dir:
    raise ValueError(
      "endpoints and own backends do not return likelihoods of given texts; "
      "use a PairwiseJudgeConfig, or LabelerConfig.labeler_dir"
    )


def check_labeler(config: LabelerConfig) -> None:
  """Checks that there is one labeler.

  Raises:
    ValueError: not exactly one is set.
  """
  given = (config.labeler_dir, config.endpoint, config.backend)
  if sum(map(bool, given)) != 1:
    raise ValueError(
      f"LabelerConfig.labeler_dir is {config.labeler_dir!r}, endpoint is "
      f"{config.endpoint} and backend {config.backend!r}; set exactly one"
    )


def by_name(
  directories: Mapping[str, str], labeler: LabelerConfig
) -> dict[str, LabelerConfig]:
  """Returns the configs of several labelers by name.

  Args:
    directories: name -> directory of a finished language model.
    labeler: mesh and prices of them. Its endpoint, if set, is one more, named
      by its model.

  Raises:
    ValueError: if two have the same name.
  """
  configs = {
    name: dataclasses.replace(labeler, labeler_dir=directory, endpoint=None)
    for name, directory in directories.items()
  }
  if labeler.endpoint is not None:
    name = labeler.endpoint.model
    if name in configs:
      raise ValueError(
        f"labelers has {name!r}, which is also the model of "
        "LabelerConfig.endpoint; choose another name in labelers"
      )
    configs[name] = labeler
  return configs


def load_labeler(config: LabelerConfig, *, journal_file: str) -> Labeler:
  """Loads a model, or opens an endpoint with a journal of its outputs.

  Args:
    config: the labeler.
    journal_file: file of the journal; "" uses none, so that several threads may
      call the backend of an endpoint.
  """
  if not config.labeler_dir and config.endpoint is None:
    return Labeler(
      backend=config.load_backend() if config.backend else None,
      tokenizer=config.load_tokenizer(),
      prices=config.prices,
    )
  if config.endpoint is None:
    loaded = pretrained.load(
      config.labeler_dir,
      "language",
      mesh_lib.make_mesh(config.mesh),
      attention=config.attention,
    )
    return Labeler(
      backend=loaded.backend(),
      tokenizer=loaded.tokenizer,
      prices=config.prices,
    )
  tokenizer = config.load_tokenizer()
  served = endpoint_lib.EndpointBackend(config.endpoint, tokenizer=tokenizer)
  if not journal_file:
    return Labeler(
      backend=served, tokenizer=tokenizer, prices=config.prices, served=served
    )
  backend = journal.JournaledBackend(served, journal_file)
  return Labeler(
    backend=backend,
    tokenizer=tokenizer,
    prices=config.prices,
    commit=lambda complete: backend.commit(complete=complete),
    served=served,
    pending=backend.pending,
  )


def label_pairs(
  pairs: Callable[[], Iterator[records.Pair]],
  labeler: Labeler,
  judge: judges.Judge,
  config: StoreConfig,
  *,
  store_dir: str,
  quarantine: jsonl.Quarantine,
) -> store.LabelStore:
  """Fills a label store with the labels of the pairs that it does not have.

  Args:
    pairs: returns a new stream of the pairs at each call.
    labeler: the labeler.
    judge: settings of the judge.
    config: settings of the store.
    store_dir: directory of the store if `config.store_dir` is "".
    quarantine: receives pairs without a valid judgment.

  Raises:
    ValueError: there is a budget and the labeler's prices are all 0.
    preemption.Preempted: the process was asked to stop, or the budget is
      exhausted; everything that was paid is stored.
  """
  name, budget = labeler.name, None
  if config.budget_usd:
    budget = costs.Budget(config.budget_usd, labeler.prices)
  stored = store.LabelStore(
    config.store_dir or store_dir,
    fingerprint=judge.fingerprint(name),
    provenance=judge.provenance(name),
  )
  progress = metrics.Progress("label", sum(1 for _ in pairs()), unit="pairs")
  # Whether all pairs of the last chunk have labels.
  complete: bool | None = None

  def count():
    if budget is not None:
      budget.count(stored.usage + labeler.pending())

  def label_fn(chunk):
    nonlocal complete
    labels, usage = judges.judge_pairs(
      chunk,
      labeler.backend,
      judge,
      tokenizer=labeler.tokenizer,
      quarantine=quarantine,
    )
    complete = len(labels) == len(chunk)
    return labels, usage

  def update(done):
    nonlocal complete
    if complete is not None:
      labeler.commit(complete)
      complete = None
    count()
    cost = labeler.prices.cost_usd(stored.usage)
    progress.update(done, f"${cost:.2f}" if cost else "")
    if preemption.requested():
      raise preemption.Preempted(f"label: stopped after {done} pairs")

  count()
  if labeler.served is not None:
    labeler.served.budget = budget
  elif budget is not None:
    label_fn = costs.within_budget(
      label_fn,
      budget,
      lambda pair: judges.expected_usage(pair, judge, labeler.tokenizer),
    )
  try:
    stored.fill(
      pairs(), label_fn, chunk_size=config.chunk_size, progress=update
    )
  except costs.BudgetExhausted as error:
    raise preemption.Preempted(f"label: {error}") from error
  return stored


def label_file(
  pairs: pair_source.PairSource,
  labeler: LabelerConfig,
  judge: judges.Judge,
  store_config: StoreConfig,
  *,
  output_dir: str,
) -> records.Row:
  """Writes labels.jsonl in the order of the pairs, and quarantine.jsonl.

  Returns:
    The summary for the result file.

  Raises:
    ValueError: there are no pairs.
    preemption.Preempted: see `label_pairs`.
  """
  directory = pathlib.Path(output_dir)
  quarantine = jsonl.Quarantine()
  count = pairs.count(quarantine)
  loaded = load_labeler(labeler, journal_file=f"{output_dir}/journal.jsonl")
  stored = label_pairs(
    pairs.read_valid,
    loaded,
    judge,
    store_config,
    store_dir=f"{output_dir}/store",
    quarantine=quarantine,
  )
  answered = jsonl.write_records(
    directory / "labels.jsonl", stored.labels(pairs.read_valid())
  )
  return {
    "labels": f"{output_dir}/labels.jsonl",
    "pairs": count,
    "answered": answered,
    "labeler": loaded.name,
    **describe_usage(stored.usage, loaded.prices),
    "quarantined": quarantine.write(directory / "quarantine.jsonl"),
    "quarantine_reasons": quarantine.counts(),
  }


def describe_usage(usage: records.Usage, prices: costs.Prices) -> records.Row:
  """Returns the usage and its cost as they appear in a result file."""
  return {
    "usage": records.to_row(usage),
    "cost_usd": round(prices.cost_usd(usage), 4),
  }


def describe_costs(
  pairs: Iterable[records.Pair], judge: judges.Judge, config: LabelerConfig
) -> str:
  """Describes what labelling the pairs costs, without a request."""
  tokenizer = config.load_tokenizer()
  expected = costs.estimate(
    pairs, lambda pair: judges.expected_usage(pair, judge, tokenizer)
  )
  return costs.describe(expected, config.prices)
