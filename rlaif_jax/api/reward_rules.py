# SPDX-License-Identifier: Apache-2.0
"""Rewards without a model: length, repetition, format, overlong, references.

Functions of texts return one number per response; those of tokens are jitted
and stay on the device. The options of each are its keyword arguments.
"""

from __future__ import annotations

import re
from typing import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rlaif_jax.core import batches
from rlaif_jax.core import records
from rlaif_jax.evaluation import nearness


@jax.jit
def length(
  prompts: batches.PromptBatch,
  response: Int[Array, "B N R"],
  mask: Float[Array, "B N R"],
) -> Float[Array, "B N"]:
  """Returns the number of tokens, the end token included."""
  del prompts, response
  return jnp.sum(mask, axis=2)


@jax.jit
def overlong(
  prompts: batches.PromptBatch,
  response: Int[Array, "B N R"],
  mask: Float[Array, "B N R"],
  *,
  longest: float,
  margin: float,
) -> Float[Array, "B N"]:
  """Returns DAPO's soft overlong punishment, in [-1, 0].

  arXiv:2503.14476, eq. 13: 0 up to longest - margin tokens, -1 above `longest`,
  and linear between.

  Args:
    prompts: not read.
    response: not read.
    mask: 1 for real tokens.
    longest: number of tokens, L_max.
    margin: number of tokens, L_cache.
  """
  del prompts, response
  over = jnp.sum(mask, axis=2) - (longest - margin)
  return -jnp.clip(over / margin, 0.0, 1.0)


def repetition(
  contexts: Sequence[str], responses: Sequence[str], *, order: int = 3
) -> list[float]:
  """Returns the share of word n-grams that repeat an earlier one, in [0, 1).

  Args:
    contexts: not read.
    responses: texts; one with fewer words than `order` gets 0.
    order: n.
  """
  del contexts

  def share(text: str) -> float:
    words = text.split()
    grams = [tuple(words[i : i + order]) for i in range(len(words) - order + 1)]
    return 1.0 - len(set(grams)) / len(grams) if grams else 0.0

  return [share(text) for text in responses]


def matches(
  contexts: Sequence[str], responses: Sequence[str], *, pattern: str
) -> list[float]:
  r"""Returns 1 for responses that match a pattern as a whole, else 0.

  Args:
    contexts: not read.
    responses: texts.
    pattern: regular expression of Python's `re`; "." is any character, a
      newline too.
  """
  del contexts
  compiled = re.compile(pattern, re.DOTALL)
  return [float(compiled.fullmatch(text) is not None) for text in responses]


def chrf(
  contexts: Sequence[str],
  responses: Sequence[str],
  rows: Sequence[records.Example],
) -> list[float | None]:
  """Returns `nearness.chrf` to each row's response; None without one."""
  del contexts
  return _to_references(nearness.chrf, responses, rows)


def rouge_l(
  contexts: Sequence[str],
  responses: Sequence[str],
  rows: Sequence[records.Example],
) -> list[float | None]:
  """Returns `nearness.rouge_l` to each row's response; None without one."""
  del contexts
  return _to_references(nearness.rouge_l, responses, rows)


def _to_references(
  similarity: Callable[[str, str], float],
  responses: Sequence[str],
  rows: Sequence[records.Example],
) -> list[float | None]:
  return [
    similarity(text, row.response) if row.response else None
    for text, row in zip(responses, rows, strict=True)
  ]


# Short names of `RewardPart.function`.
RULES: Mapping[str, Callable] = {
  "length": length,
  "overlong": overlong,
  "repetition": repetition,
  "matches": matches,
  "chrf": chrf,
  "rouge_l": rouge_l,
}
