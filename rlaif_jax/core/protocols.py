# SPDX-License-Identifier: Apache-2.0
"""The contracts between packages. A plain function satisfies most of them."""

from __future__ import annotations

import dataclasses
from typing import Any, Callable, Mapping, Protocol, Sequence

import flax.struct
import jax
import numpy as np

from rlaif_jax.core import batches
from rlaif_jax.core import masked
from rlaif_jax.core import records


class Tokenizer(Protocol):
  """Text to ids and back.

  `encode(a) + encode(b) == encode(a + b)` whenever `a` ends with or `b` begins
  with a newline, so that prompts may be put together from encoded segments
  (public vocabularies may join a newline with what is before it; see
  `text.tokenizers`).
  `eos_id` ends a response that is learned from; any of `eos_ids` (`eos_id`
  among them) ends one that is sampled. `bos_id` begins a sequence (None if
  the model has none). `encode` adds none of them. `encode` reads the names of
  special tokens in a text, such as a chat template's, as these tokens;
  `encode_plain`, for documents and responses, never does.
  """

  pad_id: int
  eos_id: int
  eos_ids: tuple[int, ...]
  bos_id: int | None
  vocab_size: int

  def encode(self, text: str) -> list[int]: ...

  def encode_plain(self, text: str) -> list[int]: ...

  def decode(self, ids: Sequence[int]) -> str: ...


class Backend(Protocol):
  """Where a language model answers; the judges know nothing else of it."""

  name: str

  def score_options(
    self, prompts: Sequence[str], options: Sequence[str]
  ) -> tuple[list[list[float]], records.Usage]:
    """Log-probability of each whole option string right after each prompt."""
    ...

  def prefix_options(self, options: Sequence[str]) -> tuple[int, ...]:
    """Whose log-prob holds whose: for each option the longest other one that
    its tokens begin with, or -1. All -1 where an answer is exactly an option.
    """
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


class PaidBackend(Backend, Protocol):
  """A backend whose answers cost money: it reports each as it arrives.

  `on_answer`, where set, is called with (number of the prompt in the call, its
  answer, what it cost); never for a prompt that got no answer.
  """

  on_answer: Callable[[int, Any, records.Usage], None] | None


class LikelihoodBackend(Protocol):
  """A backend that scores whole texts."""

  name: str

  def log_likelihoods(
    self, prompts: Sequence[str], texts: Sequence[str]
  ) -> tuple[list[tuple[float, int]], records.Usage]:
    """(log-prob, tokens) of each text right after its prompt."""
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
    """Scores responses [B, N, R] with their mask: [B, N] float32."""
    ...


class TensorSource(Protocol):
  """Named tensors of a file, read one at a time, by several threads."""

  def shapes(self) -> Mapping[str, tuple[int, ...]]: ...

  def read(self, name: str, *, borrow: bool = False) -> np.ndarray:
    """One tensor; a borrowed one lasts until this thread's next read."""
    ...

  def close(self) -> None: ...


class LossFn(Protocol):
  """A loss as a sum with its weight, and metrics likewise."""

  def __call__(
    self, params: Any, batch: Any, key: jax.Array
  ) -> tuple[masked.WeightedSum, Mapping[str, masked.WeightedSum]]: ...


class NextBatch(Protocol):
  """The batch of a step, as a function of the step alone."""

  def __call__(self, state: Any, step: int) -> Any: ...


@flax.struct.dataclass
class Prepared:
  """A language model's parameters, laid out for reading token by token."""

  weights: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageModel:
  """A language model as plain functions, params first.

  One contract for decoder-only and encoder-decoder models: a batch is a prompt
  (the first L - R columns) and a response (the last R); where the prompt is
  read, in the same stack or in an encoder, is the model's own matter.

      init(key) -> params boxed with logical axis names
      hidden(params, batch: TokenBatch) -> [B, R, D] states that predict the
        response's columns
      hidden_group(params, batch: GroupBatch) -> [B, G, R, D] likewise, each
        prompt read once
      hidden_packed(params, batch: PackedBatch) -> [B, T, D] states that
        predict the targets; None unless `is_causal`
      hidden_after(params, beginning, batch: PackedPrompts) -> [B, M, D] states
        of the last columns of prompts that go on after the cache of a
        beginning, of one row; None unless `is_causal`
      unpack(params, beginning, batch: PackedPrompts, prompts: Unpacked, room)
        -> ([N, D], cache), as `prefill` of these prompts gives, each read
        where it stands and then in a row of its own; None unless `is_causal`
      logits(params, [..., D]) -> [..., V] float32
      prefill(params, prompt [B, P], valid [B, P], room) -> ([B, D], cache):
        the state after each prompt's last real token, and a cache with room
        for that many tokens more
      extend(params, tokens [B, L], valid [B, L], cache) -> ([B, L, D], cache);
        where `is_causal`, it takes two more: the cache of a beginning, of one
        row, which all rows go on after, or None; and columns [B, T], to get
        the states [B, T, D] of these alone
      begin(beginning, rows, room) -> the cache of rows that have read nothing
        but that; None unless `is_causal`
      prepare(params) -> Prepared, which `extend` and `logits` take in place of
        params: what a loop over tokens would do to them over and over
      widen(cache, room) -> a cache with room for that many tokens more, whose
        columns are then written in turn, over and over
      put_row(cache, row, other, number) -> cache, with row `number` of the
        other, which is not wider, as row `row`; None, like `widen`, where a
        response's columns have to stand in order

  `max_length` bounds prompt + response in tokens. `row_devices` share the rows
  of what it computes. `is_causal`: a prompt may be read in pieces, the first by
  prefill and the others by extend, and the arrays of a cache have the rows in
  front, so that rows may begin alike.
  """

  init: Callable[..., Any]
  hidden: Callable[..., jax.Array]
  hidden_group: Callable[..., jax.Array]
  hidden_packed: Callable[..., jax.Array] | None
  hidden_after: Callable[..., jax.Array] | None
  unpack: Callable[..., Any] | None
  logits: Callable[..., jax.Array]
  prefill: Callable[..., Any]
  extend: Callable[..., Any]
  prepare: Callable[..., Prepared]
  begin: Callable[..., Any] | None
  widen: Callable[..., Any] | None
  put_row: Callable[..., Any] | None
  vocab_size: int
  max_length: int
  is_causal: bool
  row_devices: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScalarModel:
  """A reward model or value network as plain functions, params first.

  states(params, batch: TokenBatch) -> [B, R + 1]: the scalar of the state
  before each response column, and after the last; last(params, batch) -> [B]:
  that after the last real token. states_group and last_group: likewise of a
  GroupBatch, [B, G, R + 1] and [B, G], each prompt read once. last_packed:
  the last scalars [B, M] of a PackedBatch; None for encoder-decoders.
  """

  init: Callable[..., Any]
  states: Callable[..., jax.Array]
  last: Callable[..., jax.Array]
  states_group: Callable[..., jax.Array]
  last_group: Callable[..., jax.Array]
  last_packed: Callable[..., jax.Array] | None
