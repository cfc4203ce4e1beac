# SPDX-License-Identifier: Apache-2.0
"""Pairwise win rates with intervals, also at equal length.

An outcome is 1 if A wins, 0 if B wins and 0.5 for a tie; a soft outcome is the
judge's P(A is better). Outcomes come from scores, a pairwise judge or ranks.
"""

from __future__ import annotations

import dataclasses
from typing import Hashable, Mapping, Sequence

import numpy as np

from rlaif_jax.core import records
from rlaif_jax.ops import hypothesis
from rlaif_jax.ops import regression
from rlaif_jax.ops import statistics

Pair = tuple[str, str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LengthControl:
  """Win rate of A at equal length, by logistic regression on two features.

  Attributes:
    ratio: regression on length of A over length of B, evaluated at 1 (paper,
      appendix J). Swapping A and B does not give exactly 1 minus it, since
      1 / ratio is not a linear function of ratio.
    log_ratio: regression on its logarithm, evaluated at 0 (Stiennon et al.
      2020). Swapping A and B gives exactly 1 minus it.
  """

  ratio: statistics.Estimate
  log_ratio: statistics.Estimate


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
  """A against B on the same contexts.

  Attributes:
    a: a policy.
    b: another policy.
    win_rate: fraction of contexts on which A scores higher, ties half.
    ties: contexts with equal scores.
    length_controlled: see `LengthControl.ratio`.
    log_length_controlled: see `LengthControl.log_ratio`.
    length_ratio: mean length of A over mean length of B.
  """

  a: str
  b: str
  win_rate: statistics.Estimate
  ties: int
  length_controlled: statistics.Estimate
  log_length_controlled: statistics.Estimate
  length_ratio: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgedComparison:
  """A against B by a pairwise judge, in both presentation orders.

  Attributes:
    a: a policy.
    b: another policy.
    win_rate: fraction of contexts that A wins, ties half, with Wilson
      interval. A wins if it is preferred in both orders; if the orders differ
      it is a tie (PE-RLHF, arXiv 2403.10704).
    bootstrap: the same fraction with a bootstrap interval, which is narrower
      with ties.
    wins: contexts that A wins.
    ties: contexts without a winner.
    losses: contexts that B wins.
    unanswered: contexts without an answer in both orders; not counted
      elsewhere.
    decided: exact binomial test of wins among wins and losses.
    soft_win_rate: mean P(A is better) over orders and contexts.
    length: win rate at equal length, from wins, ties and losses.
    soft_length: win rate at equal length, from P(A is better).
    length_ratio: mean length of A over mean length of B.
  """

  a: str
  b: str
  win_rate: statistics.Estimate
  bootstrap: statistics.Estimate
  wins: int
  ties: int
  losses: int
  unanswered: int
  decided: hypothesis.TestResult
  soft_win_rate: statistics.Estimate
  length: LengthControl
  soft_length: LengthControl
  length_ratio: statistics.Estimate


@dataclasses.dataclass(frozen=True, kw_only=True)
class HarmlessRate:
  """Harmless rate of a policy, each response judged alone.

  Attributes:
    policy: name.
    rate: fraction of harmless responses.
    length_controlled: that fraction at `reference` characters, by logistic
      regression on the log of the length.
    reference: geometric mean length over policies; the same for all.
    unanswered: responses without a judgment; not counted elsewhere.
  """

  policy: str
  rate: statistics.Estimate
  length_controlled: statistics.Estimate
  reference: float
  unanswered: int


def wins(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Returns 1 where a is higher, 0.5 where equal, 0 where lower."""
  return np.where(a == b, 0.5, (a > b).astype(float))


def in_both_orders(p_orders: np.ndarray) -> np.ndarray:
  """Returns outcomes [n] of P(A is better) [n, 2] in both orders.

  The outcome is 0.5 if the orders disagree or one is exactly 0.5.
  """
  over, under = (p_orders > 0.5).all(axis=1), (p_orders < 0.5).all(axis=1)
  return np.where(over, 1.0, np.where(under, 0.0, 0.5))


def length_controlled(
  outcomes: np.ndarray,
  lengths: tuple[np.ndarray, np.ndarray],
  *,
  clusters: Sequence[Hashable] | None = None,
) -> LengthControl:
  """Returns the win rate of A at equal length.

  If all rows have the same ratio of lengths, the value is the plain mean; the
  interval is wide if that ratio is not 1. No rows give NaN.

  Args:
    outcomes: [n], 0, 0.5, 1 or soft.
    lengths: characters of the responses of A and of B, [n] each; an empty
      response counts as one character.
    clusters: [n] context of each row; for contexts with several rows, or soft
      outcomes (see `regression.fit_logistic`).

  Raises:
    ValueError: outcomes outside of [0, 1], or arrays of different lengths.
  """
  n = len(outcomes)
  if not n:
    nothing = statistics.nothing("logistic")
    return LengthControl(ratio=nothing, log_ratio=nothing)
  length_a, length_b = (np.maximum(np.asarray(x), 1.0) for x in lengths)
  ratio = length_a / length_b

  def controlled(feature: np.ndarray, at: float) -> statistics.Estimate:
    fit = regression.fit_logistic(feature[:, None], outcomes, clusters=clusters)
    return fit.at([at], n)

  return LengthControl(
    ratio=controlled(ratio, 1.0),
    # The difference of logs is exactly antisymmetric in A and B.
    log_ratio=controlled(np.log(length_a) - np.log(length_b), 0.0),
  )


def compare(
  names: Pair,
  scores: tuple[np.ndarray, np.ndarray],
  lengths: tuple[np.ndarray, np.ndarray],
) -> Comparison:
  """Compares two policies on the same contexts, in the same order.

  Args:
    names: of A and B.
    scores: judge's scores of both, [n] each.
    lengths: of the responses in characters, [n] each.

  Raises:
    ValueError: the arrays differ in length or are empty, or a score is NaN.
  """
  _check_sizes(names, {len(x) for x in (*scores, *lengths)})
  missing = sum(int(np.isnan(np.asarray(x, float)).sum()) for x in scores)
  if missing:
    raise ValueError(
      f"{names[0]} and {names[1]} have {missing} scores that are NaN; leave "
      "out unscored contexts and report their number"
    )
  won = wins(np.asarray(scores[0]), np.asarray(scores[1]))
  length_a, length_b = (np.maximum(np.asarray(x), 1.0) for x in lengths)
  control = length_controlled(won, lengths)
  return Comparison(
    a=names[0],
    b=names[1],
    win_rate=statistics.wilson(float(won.sum()), len(won)),
    ties=int((won == 0.5).sum()),
    length_controlled=control.ratio,
    log_length_controlled=control.log_ratio,
    length_ratio=float(length_a.mean() / length_b.mean()),
  )


def _check_sizes(
  names: Pair, sizes: set[int], *, may_be_empty: bool = False
) -> None:
  if len(sizes) != 1 or (0 in sizes and not may_be_empty):
    raise ValueError(
      f"{names[0]} and {names[1]} have {sorted(sizes)} responses; both must "
      "answer the same contexts, at least one"
    )


def matrix(
  scores: Mapping[str, np.ndarray], lengths: Mapping[str, np.ndarray]
) -> list[Comparison]:
  """Returns all pairs of policies, each once, in the order of `scores`."""
  names = list(scores)
  return [
    compare((a, b), (scores[a], scores[b]), (lengths[a], lengths[b]))
    for i, a in enumerate(names)
    for b in names[i + 1 :]
  ]


def compare_judged(
  names: Pair,
  p_orders: np.ndarray,
  lengths: tuple[np.ndarray, np.ndarray],
) -> JudgedComparison:
  """Compares two policies by a pairwise judge.

  No answer gives NaN with n = 0.

  Args:
    names: of A and B.
    p_orders: [n, 2] P(A is better), when A was shown first and when it was
      shown second; NaN where the judge gave no answer.
    lengths: of the responses in characters, [n] each.

  Raises:
    ValueError: wrong shapes, or a value outside of [0, 1].
  """
  p_orders = np.asarray(p_orders, np.float64)
  if p_orders.ndim != 2 or p_orders.shape[1] != 2:
    raise ValueError(
      f"{names[0]} and {names[1]}: p_orders is {p_orders.shape}; it must be "
      "[contexts, 2], one column per order: label with both orders"
    )
  sizes = {len(x) for x in (p_orders, *lengths)}
  _check_sizes(names, sizes, may_be_empty=True)
  if ((p_orders < 0) | (p_orders > 1)).any():
    raise ValueError(
      f"{names[0]} and {names[1]}: p_orders ranges from "
      f"{np.nanmin(p_orders)} to {np.nanmax(p_orders)}; it holds "
      "probabilities, in [0, 1]"
    )
  answered = ~np.isnan(p_orders).any(axis=1)
  lengths = tuple(np.asarray(x, np.float64)[answered] for x in lengths)
  kept = p_orders[answered]
  outcomes, soft = in_both_orders(kept), kept.mean(axis=1)
  won, lost = int((outcomes == 1).sum()), int((outcomes == 0).sum())
  n = len(kept)
  return JudgedComparison(
    a=names[0],
    b=names[1],
    win_rate=statistics.wilson(float(outcomes.sum()), n),
    bootstrap=statistics.bootstrap_mean(outcomes),
    wins=won,
    ties=n - won - lost,
    losses=lost,
    unanswered=len(p_orders) - n,
    decided=hypothesis.binomial(won, won + lost),
    soft_win_rate=statistics.bootstrap_mean(soft),
    length=length_controlled(outcomes, lengths),
    soft_length=length_controlled(soft, lengths, clusters=np.arange(n)),
    length_ratio=statistics.ratio(*(np.maximum(x, 1.0) for x in lengths)),
  )


def judged_matrix(
  labels: Mapping[Pair, Sequence[records.Preference]],
  asked: Mapping[Pair, int] | None = None,
) -> list[JudgedComparison]:
  """Returns all pairs of policies that a judge labelled.

  Args:
    labels: (A, B) -> labels of pairs whose first response is A's and whose
      second is B's, with `p_orders` of both orders.
    asked: (A, B) -> number of pairs given to the judge; those that are not in
      `labels` count as unanswered. None means that all were answered.

  Raises:
    ValueError: a label without both orders, or asked < number of labels.
  """
  result = []
  for names, rows in labels.items():
    single = [row.id for row in rows if len(row.p_orders) != 2]
    if single:
      raise ValueError(
        f"{names[0]} and {names[1]}: {len(single)} labels were not made in "
        f"both orders, {single[0]!r} first; label with both orders"
      )
    missing = 0 if asked is None else asked[names] - len(rows)
    if missing < 0:
      raise ValueError(
        f"{names[0]} and {names[1]}: asked is {asked[names]}, and there are "
        f"{len(rows)} labels; asked must be >= the number of labels"
      )
    found = compare_judged(
      names,
      np.asarray([row.p_orders for row in rows]).reshape(-1, 2),
      (
        np.asarray([len(row.first) for row in rows]),
        np.asarray([len(row.second) for row in rows]),
      ),
    )
    result.append(
      dataclasses.replace(found, unanswered=found.unanswered + missing)
    )
  return result


def harmless_rate(is_harmless: Sequence[bool]) -> statistics.Estimate:
  """Returns the fraction of harmless responses (paper 2.3)."""
  values = np.asarray(is_harmless, float)
  return statistics.wilson(float(values.sum()), len(values))


def harmless_rates(
  harmless: Mapping[str, np.ndarray], lengths: Mapping[str, np.ndarray]
) -> list[HarmlessRate]:
  """Returns harmless rates of policies, plain and at equal length.

  The paper (appendix J) regresses on the length relative to SFT's mean and
  evaluates at 1. This function regresses on the log of the length and evaluates
  at the mean of the policies' mean logs, so no policy is the reference.

  Args:
    harmless: policy -> [n] 1 for harmless, 0 for harmful, NaN for no judgment,
      or the judge's P(harmless).
    lengths: policy -> [n] characters; an empty response counts as one.

  Raises:
    ValueError: a value outside of [0, 1], or arrays of different lengths.
  """
  kept, logs = {}, {}
  for name, values in harmless.items():
    values = np.asarray(values, np.float64)
    if len(values) != len(lengths[name]) or ((values < 0) | (values > 1)).any():
      raise ValueError(
        f"{name}: there are {len(values)} judgments and {len(lengths[name])} "
        "lengths; there must be one of each per response, judgments in [0, 1]"
      )
    answered = ~np.isnan(values)
    kept[name] = values[answered]
    characters = np.maximum(np.asarray(lengths[name], np.float64), 1.0)
    logs[name] = np.log(characters[answered])
  means = [float(v.mean()) for v in logs.values() if len(v)]
  reference = float(np.mean(means)) if means else float("nan")
  result = []
  for name, values in kept.items():
    n = len(values)
    controlled = statistics.nothing("logistic")
    if n:
      soft = ((values != 0) & (values != 1)).any()
      fit = regression.fit_logistic(
        logs[name][:, None], values, clusters=np.arange(n) if soft else None
      )
      controlled = fit.at([reference], n)
    result.append(
      HarmlessRate(
        policy=name,
        rate=harmless_rate(values),
        length_controlled=controlled,
        reference=float(np.exp(reference)),
        unanswered=len(harmless[name]) - n,
      )
    )
  return result
