# SPDX-License-Identifier: Apache-2.0
"""Option log-probs to probabilities, scores and rewards.

Owns what an answer of the labeler means and when it is no answer; who is asked
is in `labeling.judge` (pairs) and `labeling.responses`. The arithmetic runs on
numpy and, with `xp=jax.numpy`, in a jitted labeler.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any, Sequence

import numpy as np

from rlaif_jax.core import jsonl
from rlaif_jax.core import protocols
from rlaif_jax.core import records

# An option that is a prefix of others keeps at least this share of its mass.
_MIN_OWN_SHARE = 1e-6
# Rounding that a backend may show in P("10") <= P("1") and in P <= 1.
_LOG_TOLERANCE = 1e-2


def prefix_options(
  options: Sequence[str], tokenizer: protocols.Tokenizer
) -> tuple[int, ...]:
  """For each option the longest other one that its tokens begin with.

  Whether P("1") holds the mass of "10" depends on the tokenizer: it does where
  "10" is the tokens "1", "0", and does not where "10" is one token.

  Returns:
    Index of that option, or -1, for each option.

  Raises:
    ValueError: two options have the same tokens.
  """
  ids = [tuple(tokenizer.encode(option)) for option in options]
  if len(set(ids)) != len(ids) or not all(ids):
    raise ValueError(
      f"the tokenizer writes the options {tuple(options)} as {ids}; they "
      "should differ and none be empty: choose other options in the template"
    )
  result = []
  for own in ids:
    shorter = [i for i, other in enumerate(ids) if _begins(own, other)]
    result.append(max(shorter, key=lambda i: len(ids[i]), default=-1))
  return tuple(result)


def _begins(own: tuple[int, ...], other: tuple[int, ...]) -> bool:
  return len(other) < len(own) and own[: len(other)] == other


def probabilities_from_log_probs(
  log_probs: Any, prefix_of: Sequence[int], *, xp: ModuleType = np
) -> Any:
  """Normalizes options, after giving each string its own mass only.

      mass(i) = P(i) - sum of P(j) over the j whose longest prefix is i
      p(i) = mass(i) / sum of mass

  Computed from log-probs without leaving the log domain until the softmax; a
  mass is at least 1e-6 of its P(i). Section 2.1 (two options) and 2.2.2 (ten)
  of Lee et al., arXiv 2309.00267; the paper says nothing of prefixes.

  Args:
    log_probs: [..., N] log-prob of each whole option string, float32 or more.
    prefix_of: N indices as from `prefix_options`.
    xp: numpy (float64 for lists) or jax.numpy.

  Returns:
    [..., N] probabilities that sum to 1.
  """
  log_probs = xp.asarray(log_probs)
  if log_probs.shape[-1] != len(prefix_of):
    raise ValueError(
      f"log_probs has {log_probs.shape[-1]} options in its last axis, but "
      f"prefix_of names {len(prefix_of)}"
    )
  columns = [log_probs[..., i] for i in range(len(prefix_of))]
  masses = []
  for i, own in enumerate(columns):
    longer = [columns[j] for j, prefix in enumerate(prefix_of) if prefix == i]
    taken = sum(xp.exp(xp.minimum(other - own, 0.0)) for other in longer)
    if longer:
      own = own + xp.log1p(-xp.minimum(taken, 1.0 - _MIN_OWN_SHARE))
    masses.append(own)
  log_mass = xp.stack(masses, axis=-1)
  mass = xp.exp(log_mass - xp.max(log_mass, axis=-1, keepdims=True))
  return mass / xp.sum(mass, axis=-1, keepdims=True)


def expected_score(probabilities: Any, *, xp: ModuleType = np) -> Any:
  """sum over i of i * P(i), in [1, N] (section 2.2.2).

  Args:
    probabilities: [..., N] of the scores 1..N.
    xp: numpy or jax.numpy.
  """
  probabilities = xp.asarray(probabilities)
  count = probabilities.shape[-1]
  scores = xp.arange(1, count + 1, dtype=probabilities.dtype)
  return xp.clip(probabilities @ scores, 1.0, float(count))


def to_reward(score: Any) -> Any:
  """Maps a score of 1..10 to [-1, 1] by (score - 5.5) / 4.5.

  The paper normalizes to [-1, 1] and prints no formula; that the map is this
  linear one is our inference.
  """
  return (score - 5.5) / 4.5


def flaw(log_probs: Sequence[float], prefix_of: Sequence[int]) -> str:
  """Why these log-probs are no answer, or "" if they are one."""
  if not all(math.isfinite(value) for value in log_probs):
    return "non-finite option log-prob"
  if max(log_probs) > _LOG_TOLERANCE:
    return "option log-prob above 0"
  for own, prefix in zip(log_probs, prefix_of, strict=True):
    if prefix >= 0 and own > log_probs[prefix] + _LOG_TOLERANCE:
      return "option more likely than its own prefix"
  return ""


def ask_options(
  backend: protocols.Backend, texts: Sequence[str], options: Sequence[str]
) -> tuple[list[list[float]], records.Usage]:
  """One call of `backend.score_options`, its shape checked.

  Raises:
    ValueError: not one row per prompt with one number per option.
  """
  if not texts:
    return [], records.Usage()
  rows, usage = backend.score_options(texts, options)
  widths = {len(row) for row in rows}
  if len(rows) != len(texts) or widths != {len(options)}:
    raise ValueError(
      f"backend {backend.name!r} answered {len(rows)} rows of {widths} "
      f"numbers; {len(texts)} rows of {len(options)} were asked for: mend its "
      "score_options"
    )
  return [[float(value) for value in row] for row in rows], usage


def reject(
  quarantine: jsonl.Quarantine | None, *, row: Any, reason: str
) -> None:
  """Sets a row without an answer aside, or raises if there is nowhere to.

  Args:
    quarantine: where to; None makes the row an error.
    row: a record with an `id`.
    reason: what was wrong with the answer.
  """
  if quarantine is None:
    raise ValueError(
      f"{type(row).__name__} {row.id}: {reason}. A labeler that fails to "
      "answer is not scored; mend the row or the labeler, or pass a quarantine"
    )
  quarantine.add(
    where=f"labeling {row.id}", reason=reason, row=records.to_row(row)
  )
