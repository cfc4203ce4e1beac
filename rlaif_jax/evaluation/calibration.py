# SPDX-License-Identifier: Apache-2.0
"""Calibration of a judge's soft labels against human labels.

A label p is P(first is better). The judge prefers the first where p > 0.5; its
confidence is max(p, 1 - p). A label is correct if humans prefer the same
response: 1, 0, or the fraction of humans who do, 0.5 for ties. All numbers are
invariant to swapping first and second.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from rlaif_jax.ops import statistics

BINNINGS = ("width", "mass")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bin:
  """Pairs whose confidence is in [low, high); empty bins are left out.

  Attributes:
    low: lower edge.
    high: upper edge; the last bin includes it.
    confidence: mean confidence.
    correct: fraction of correct labels, with Wilson interval.
  """

  low: float
  high: float
  confidence: float
  correct: statistics.Estimate


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibration:
  """Calibration of a judge on n pairs.

  Attributes:
    binning: "width", bins of equal width on [0.5, 1], or "mass", bins with
      about equally many pairs; equal confidences share a bin.
    bins: the reliability diagram.
    error: expected calibration error (Naeini et al. 2015): the sum over bins
      of fraction of pairs times |fraction correct - mean confidence|.
    error_if_calibrated: `error` of calibrated labels on n pairs: mean and
      95 % range over sampled human labels. It is positive, since every bin has
      sampling noise.
    brier: mean of (p - human label)^2 (Brier 1950), 0.25 for p = 0.5.
    entropy: mean of -p log p - (1 - p) log(1 - p), in nats, log 2 for p = 0.5.
    left_out: pairs without a label of the judge or of humans.
  """

  binning: str
  bins: tuple[Bin, ...]
  error: statistics.Estimate
  error_if_calibrated: statistics.Estimate
  brier: statistics.Estimate
  entropy: statistics.Estimate
  left_out: int


def calibration(
  p_first: np.ndarray,
  truth: np.ndarray,
  *,
  bins: int = 10,
  binning: str = "width",
  seed: int = 0,
) -> Calibration:
  """Returns the calibration of soft labels against human labels.

  The interval of `error` is the basic bootstrap, [2 e - q(0.975), 2 e -
  q(0.025)], not below 0 (Davison and Hinkley 1997, section 5.2). A bootstrap
  sample adds its own noise to every bin, so its error is biased upwards and
  the percentile interval misses the true error (always, for calibrated
  labels). The interval begins at 0 where calibrated labels have as large an
  error with probability above 2.5 %. In simulations it covered the true error
  in 90 to 100 % of 60 runs per case (300 and 1,500 pairs; calibrated labels,
  and logits 1.4 and 2.5 times too large).

  Args:
    p_first: [n] P(first is better) by the judge; NaN for no answer.
    truth: [n] the same by humans, 0, 1 or a fraction; NaN for none.
    bins: number of bins.
    binning: "width" or "mass".
    seed: of the bootstrap and of the sampled labels.

  Raises:
    ValueError: values outside of [0, 1], arrays of different lengths, fewer
      than one bin or unknown binning.
  """
  p, truth = statistics.paired(p_first, truth)
  _check(p, truth, bins, binning)
  answered = ~np.isnan(p) & ~np.isnan(truth)
  left_out = int((~answered).sum())
  p, truth = p[answered], truth[answered]
  confidence, correct = _confidence_and_correct(p, truth)
  edges, inside = _binned(confidence, bins, binning)
  if_right = _if_calibrated(confidence, inside, seed)
  return Calibration(
    binning=binning,
    bins=_bins(edges, inside, confidence, correct),
    error=_error(confidence, correct, inside, if_right.high, seed),
    error_if_calibrated=if_right,
    brier=statistics.bootstrap_mean((p - truth) ** 2, seed=seed),
    entropy=statistics.bootstrap_mean(entropy(p), seed=seed),
    left_out=left_out,
  )


def expected_error(
  p_first: np.ndarray, truth: np.ndarray, bins: int = 10
) -> float:
  """Returns the expected calibration error in bins of equal width.

  Args:
    p_first: [n] P(first is better) by the judge.
    truth: [n] the same by humans, 0, 1 or a fraction.
    bins: number of bins.
  """
  confidence, correct = _confidence_and_correct(
    *statistics.paired(p_first, truth)
  )
  _, inside = _binned(confidence, bins, "width")
  return float(np.abs((correct - confidence) @ inside).sum() / len(confidence))


def _confidence_and_correct(
  p: np.ndarray, truth: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Returns max(p, 1 - p), and the truth of the side that the judge prefers."""
  correct = np.where(p > 0.5, truth, 1 - truth)
  return np.maximum(p, 1 - p), np.where(p == 0.5, 0.5, correct)


def _binned(
  confidence: np.ndarray, bins: int, binning: str
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the bin edges, and membership of each bin [n, bins]."""
  edges = _edges(confidence, bins, binning)
  place = np.searchsorted(edges[1:-1], confidence, side="right")
  return edges, (place[:, None] == np.arange(len(edges) - 1)).astype(float)


def entropy(p: np.ndarray) -> np.ndarray:
  """Returns the entropy of (p, 1 - p), in nats."""

  from scipy import special  # It takes long to import.

  p = np.asarray(p, np.float64)
  return special.entr(p) + special.entr(1 - p)


def _check(p: np.ndarray, truth: np.ndarray, bins: int, binning: str) -> None:
  for name, values in (("p_first", p), ("truth", truth)):
    outside = int(((values < 0) | (values > 1)).sum())
    if outside:
      raise ValueError(
        f"{name}: {outside} values are not in [0, 1]; it holds P(first is "
        "better)"
      )
  if bins < 1 or binning not in BINNINGS:
    raise ValueError(
      f"bins is {bins} and binning is {binning!r}; bins must be >= 1 and "
      f"binning one of {BINNINGS}"
    )


def _edges(confidence: np.ndarray, bins: int, binning: str) -> np.ndarray:
  """Returns the edges of the bins, ascending, from 0.5 to 1."""
  inner = np.linspace(0.5, 1.0, bins + 1)[1:-1]
  if binning == "mass" and len(confidence):
    inner = np.quantile(confidence, np.linspace(0, 1, bins + 1)[1:-1])
  # Rounded: 0.7 must not be below an edge at 0.7000000000000001. Two equal
  # edges make an empty bin.
  return np.concatenate([[0.5], inner.round(12), [1.0]])


def _bins(
  edges: np.ndarray,
  inside: np.ndarray,
  confidence: np.ndarray,
  correct: np.ndarray,
) -> tuple[Bin, ...]:
  sizes = inside.sum(axis=0).astype(int)
  return tuple(
    Bin(
      low=float(edges[k]),
      high=float(edges[k + 1]),
      confidence=float(inside[:, k] @ confidence / n),
      correct=statistics.wilson(float(inside[:, k] @ correct), int(n)),
    )
    for k, n in enumerate(sizes)
    if n
  )


def _error(
  confidence: np.ndarray,
  correct: np.ndarray,
  inside: np.ndarray,
  if_calibrated: float,
  seed: int,
) -> statistics.Estimate:
  n = len(confidence)
  if not n:
    return statistics.nothing("basic bootstrap")
  differences = inside * (correct - confidence)[:, None]
  value = float(np.abs(differences.sum(axis=0)).sum()) / n
  low, high = float("nan"), float("nan")
  if n > 1:
    resampled = (
      np.abs(statistics.resampled_sums(differences, seed=seed)).sum(axis=1) / n
    )
    upper, lower = np.quantile(resampled, [0.975, 0.025])
    low, high = max(0.0, 2 * value - upper), max(0.0, 2 * value - lower)
    low = 0.0 if value <= if_calibrated else low
  return statistics.Estimate(
    value=value, low=float(low), high=float(high), n=n, method="basic bootstrap"
  )


def _if_calibrated(
  confidence: np.ndarray, inside: np.ndarray, seed: int, draws: int = 2000
) -> statistics.Estimate:
  """Returns the error of calibrated labels, over sampled human labels."""
  n = len(confidence)
  if not n:
    return statistics.nothing("sampled labels")
  generator = np.random.default_rng(seed)
  ties = confidence == 0.5
  errors = np.empty(draws)
  for i in range(draws):
    correct = np.where(ties, 0.5, generator.random(n) < confidence)
    errors[i] = np.abs((correct - confidence) @ inside).sum() / n
  low, high = np.quantile(errors, [0.025, 0.975])
  return statistics.Estimate(
    value=float(errors.mean()),
    low=float(low),
    high=float(high),
    n=n,
    method="sampled labels",
  )
