# SPDX-License-Identifier: Apache-2.0
"""Converts option log-probs to probabilities, scores and rewards.

Validates log-probs and rejects rows without a valid judgment. The judges that
use it are `labeling.pairwise_judge` and `labeling.pointwise_judge`. The
arithmetic runs on numpy and, with `xp=jax.numpy`, in a jitted labeler.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Sequence, TypeVar

import numpy as np

from rlaif_jax.core import batches
from rlaif_jax.core import jsonl
from rlaif_jax.core import protocols
from rlaif_jax.core import records

Score = TypeVar("Score")

# Minimum share of its mass that a prefix of other options keeps.
_MIN_OWN_SHARE = 1e-6
# Tolerated rounding error in P("10") <= P("1") and in P <= 1.
_LOG_TOLERANCE = 1e-2


def option_ids(
  options: Sequence[str], tokenizer: protocols.Tokenizer
) -> tuple[tuple[int, ...], ...]:
  """Returns the ids of each option inside a text, after a line break.

  Some SentencePiece vocabularies, such as that of Llama 2, put a blank before
  every text, so that a text that is only "1" has other ids than the "1" which
  continues a prompt.
  """
  before = tokenizer.encode("\n")
  result = []
  for option in options:
    own = tokenizer.encode(option)
    whole = tokenizer.encode("\n" + option)
    if before and whole[: len(before)] == before:
      own = whole[len(before) :]
    result.append(tuple(own))
  return tuple(result)


def prefix_options(
  options: Sequence[str], tokenizer: protocols.Tokenizer
) -> tuple[int, ...]:
  """Maps each option to its longest proper prefix among the options.

  Whether P("1") includes P("10") depends on the tokenizer: it does if "10" is
  the tokens "1", "0", and does not if "10" is one token.

  Returns:
    Index of the prefix option for each option, or -1.

  Raises:
    ValueError: an option has no tokens, or two have the same tokens.
  """
  ids = option_ids(options, tokenizer)
  if len(set(ids)) != len(ids) or not all(ids):
    raise ValueError(
      f"the tokenizer encodes the options {tuple(options)} as {list(ids)}; use "
      "options with different, non-empty token sequences in the template"
    )
  result = []
  for own in ids:
    shorter = [i for i, other in enumerate(ids) if _is_prefix(other, own)]
    result.append(max(shorter, key=lambda i: len(ids[i]), default=-1))
  return tuple(result)


def _is_prefix(short: tuple[int, ...], long: tuple[int, ...]) -> bool:
  return len(short) < len(long) and long[: len(short)] == short


def probabilities_from_log_probs(
  log_probs: batches.Array | Sequence[float],
  prefix_of: Sequence[int],
  *,
  xp: ModuleType = np,
) -> batches.Array:
  """Normalizes option log-probs after subtracting the mass of longer options.

      mass(i) = P(i) - sum of P(j) over the j whose longest prefix is i
      p(i) = mass(i) / sum of mass

  Stays in the log domain until the softmax; mass(i) is at least 1e-6 P(i).
  Sections 2.1 (two options) and 2.2.2 (ten options) of Lee et al., arXiv
  2309.00267; the paper does not mention prefixes.

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


def expected_score(
  probabilities: batches.Array, *, xp: ModuleType = np
) -> batches.Array:
  """sum over i of i * P(i), in [1, N] (section 2.2.2).

  Args:
    probabilities: [..., N] of the scores 1..N.
    xp: numpy or jax.numpy.
  """
  probabilities = xp.asarray(probabilities)
  count = probabilities.shape[-1]
  scores = xp.arange(1, count + 1, dtype=probabilities.dtype)
  return xp.clip(probabilities @ scores, 1.0, float(count))


def to_reward(score: Score) -> Score:
  """Maps a score in [1, 10] to [-1, 1] by (score - 5.5) / 4.5.

  The paper normalizes to [-1, 1] without a formula; the linear map is our
  assumption.
  """
  return (score - 5.5) / 4.5


def find_error(log_probs: Sequence[float], prefix_of: Sequence[int]) -> str:
  """Returns what is wrong with the log-probs, or "" if they are valid."""
  if not all(math.isfinite(value) for value in log_probs):
    return "non-finite option log-prob"
  if max(log_probs) > _LOG_TOLERANCE:
    return "option log-prob above 0"
  for own, prefix in zip(log_probs, prefix_of, strict=True):
    if prefix >= 0 and own > log_probs[prefix] + _LOG_TOLERANCE:
      return "option more likely than its own prefix"
  return ""


def score_options(
  backend: protocols.Backend, texts: Sequence[str], options: Sequence[str]
) -> tuple[list[list[float]], records.Usage]:
  """Calls `backend.score_options` and checks the shape of the result.

  Raises:
    ValueError: the result is not one row per prompt with one log-prob per
      option.
  """
  if not texts:
    return [], records.Usage()
  rows, usage = backend.score_options(texts, options)
  widths = {len(row) for row in rows}
  if len(rows) != len(texts) or widths != {len(options)}:
    raise ValueError(
      f"backend {backend.name!r} returned {len(rows)} rows of {widths} "
      f"log-probs; expected {len(texts)} rows of {len(options)}: fix its "
      "score_options method"
    )
  return [[float(value) for value in row] for row in rows], usage


def reject(
  quarantine: jsonl.Quarantine | None, *, row: object, reason: str
) -> None:
  """Quarantines a row without a valid judgment, or raises.

  Args:
    quarantine: receives the row; None raises.
    row: a record with an `id`.
    reason: why the row has no judgment.

  Raises:
    ValueError: `quarantine` is None.
  """
  if quarantine is None:
    raise ValueError(
      f"{type(row).__name__} {row.id}: {reason}. Fix the row or the labeler, "
      "or pass a quarantine to skip such rows"
    )
  quarantine.add(
    where=f"labeling {row.id}", reason=reason, row=records.to_row(row)
  )
