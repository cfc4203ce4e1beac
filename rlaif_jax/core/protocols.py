# SPDX-License-Identifier: Apache-2.0
"""The contracts between packages. A plain function satisfies most of them."""

from __future__ import annotations

import dataclasses
from typing import Any, Callable, Mapping, Protocol, Sequence

import jax

from rlaif_jax.core import batches
from rlaif_jax.core import masked
from rlaif_jax.core import records


class Tokenizer(Protocol):
  """Text to ids and back.

  `encode(a) + encode(b) == encode(a + b)` whenever `a` ends with or `b` begins
  with a newline, so that prompts may be put together from encoded segments.
  `eos_id` ends a response; `bos_id` begins a sequence (None if the model has
  none). `encode` adds neither.
  """

  pad_id: int
  eos_id: int
  bos_id: int | None
  vocab_size: int

  def encode(self, text: str) -> list[int]: ...

  def decode(self, ids: Sequence[int]) -> str: ...


class Backend(Protocol):
  """Where a language model answers; the judges know nothing else of it."""

  name: str

  def score_options(
    self, prompts: Sequence[str], options: Sequence[str]
  ) -> tuple[list[list[float]], records.Usage]:
    """Log-probability of each whole option string right after each prompt."""
    ...

  def complete(
    self,
    prompts: Sequence[str],
    *,
    max_tokens: int,
    temperature: float,
    top_k: int,
    seed: int,
    stop: str,
  ) -> tuple[list[str], records.Usage]:
    """Continues each prompt; temperature 0 is greedy, top_k 0 is no limit.

    A text ends before the first `stop` string ("" is none).
    """
    ...


class Scorer(Protocol):
  """A reward: a reward model, an ensemble or a 1..10 rating alike."""

  def __call__(
    self,
    params: Any,
    prompts: batches.PromptBatch,
    response: jax.Array,
    mask: jax.Array,
  ) -> jax.Array:
    """[B, R] tokens and mask -> [B] float32 scores."""
    ...


class LossFn(Protocol):
  """A loss as a sum with its weight, and metrics likewise."""

  def __call__(
    self, params: Any, batch: Any, key: jax.Array
  ) -> tuple[masked.WeightedSum, Mapping[str, masked.WeightedSum]]: ...


class NextBatch(Protocol):
  """The batch of a step, as a function of the step alone."""

  def __call__(self, state: Any, step: int) -> Any: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageModel:
  """A language model as plain functions, params first.

  hidden(params, tokens [B L], valid [B L]) -> [B L D]; logits(params,
  [... D]) -> [... V] float32; prefill(params, tokens, valid, capacity) and
  extend(params, tokens, valid, cache) -> (hidden, cache); init(key) -> params
  boxed with logical axis names.
  """

  init: Callable[..., Any]
  hidden: Callable[..., jax.Array]
  logits: Callable[..., jax.Array]
  prefill: Callable[..., Any]
  extend: Callable[..., Any]
  vocab_size: int
  max_length: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScalarModel:
  """A reward model or value network as plain functions, params first.

  per_token(params, tokens [B L], valid [B L]) -> [B L]; last(...) -> [B], the
  scalar at the last real token.
  """

  init: Callable[..., Any]
  per_token: Callable[..., jax.Array]
  last: Callable[..., jax.Array]
