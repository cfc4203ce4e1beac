# SPDX-License-Identifier: Apache-2.0
"""Contracts between packages; a plain function satisfies most of them."""

from __future__ import annotations

import dataclasses
from typing import Any, Callable, Mapping, Protocol, Sequence

import flax.struct
import jax
import numpy as np

from rlaif_jax.core import batches
from rlaif_jax.core import masked
from rlaif_jax.core import records


# A pytree of arrays: a model's parameters, adapters, or several of them.
Params = Any
# A pytree that only the model that made it reads.
Cache = Any


class Tokenizer(Protocol):
  """Converts text to token ids and back.

  `encode(a) + encode(b) == encode(a + b)` if `a` ends or `b` begins with a
  newline, so that prompts can be composed of encoded segments (public
  vocabularies may merge a newline with the text before it; see
  `text.tokenizers`).

  Attributes:
    eos_id: ends a response in training.
    eos_ids: any of them ends a sampled response; includes `eos_id`.
    bos_id: first token of a sequence, or None.

  `encode` adds no special tokens. It encodes the names of special tokens in a
  text, such as those of a chat template, as these tokens; `encode_plain`, for
  documents and responses, never does.
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
  """A language model as the judges see it."""

  name: str

  def score_options(
    self, prompts: Sequence[str], options: Sequence[str]
  ) -> tuple[list[list[float]], records.Usage]:
    """Returns the log-prob of each whole option after each prompt."""
    ...

  def prefix_options(self, options: Sequence[str]) -> tuple[int, ...]:
    """Maps each option to its longest prefix option.

    The value is the index of the longest other option that the tokens of an
    option start with, or -1. All are -1 if outputs are exactly the options.
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
    """Continues each prompt; temperature 0 is greedy, top_k 0 has no limit.

    A text ends before the first `stop` string; "" has no effect.
    """
    ...


class PaidBackend(Backend, Protocol):
  """A backend whose outputs cost money; it reports each as it arrives.

  If `on_output` is set, it is called with (index of the prompt in the call,
  output, usage); never for a prompt that failed.
  """

  on_output: Callable[[int, Any, records.Usage], None] | None


class LikelihoodBackend(Protocol):
  """A backend that scores whole texts."""

  name: str

  def log_likelihoods(
    self, prompts: Sequence[str], texts: Sequence[str]
  ) -> tuple[list[tuple[float, int]], records.Usage]:
    """Returns (log-prob, number of tokens) of each text after its prompt."""
    ...


class Scorer(Protocol):
  """A reward: a reward model, an ensemble, a labeler or a function."""

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
  """Named tensors of a file; several threads may read them."""

  def shapes(self) -> Mapping[str, tuple[int, ...]]: ...

  def read(self, name: str, *, borrow: bool = False) -> np.ndarray:
    """Returns a tensor; a borrowed one is valid until the next read."""
    ...

  def close(self) -> None: ...


class LossFn(Protocol):
  """A loss and metrics as weighted sums."""

  def __call__(
    self, params: Any, batch: Any, key: jax.Array
  ) -> tuple[masked.WeightedSum, Mapping[str, masked.WeightedSum]]: ...


class NextBatch(Protocol):
  """Returns the batch of a step."""

  def __call__(self, state: Any, step: int) -> Any: ...


@flax.struct.dataclass
class PreparedParams:
  """Model parameters in the layout that is fastest for decoding.

  `LanguageModel.decode_step` and `LanguageModel.logits` take them in place of
  the parameters.
  """

  params: Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class CacheFunctions:
  """Functions of the caches of a causal model.

  All arrays of a cache have the rows as their first axis, but for counters.

  Attributes:
    init_cache: (prefix, rows, num_new_tokens) -> an empty cache of rows that
      continue `prefix`, the cache of one row.
    grow_cache: (cache, num_new_tokens) -> a cache with that many more columns.
      They are written in turn; after the last one, the first is overwritten.
    insert_row: (cache, row, other, other_row) -> `cache` with `row` replaced
      by a row of `other`, which has at most as many columns.
  """

  init_cache: Callable[[Cache, int, int], Cache]
  grow_cache: Callable[[Cache, int], Cache]
  insert_row: Callable[[Cache, jax.Array, Cache, jax.Array], Cache]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageModel:
  """A language model as pure functions; parameters come first.

  Decoder-only and encoder-decoder models share this contract. A batch is
  prompts and responses; the model decides whether one stack reads both.
  D is the model's width and V its vocabulary size.

  Attributes:
    init: (key) -> parameters, boxed with their logical axis names.
    hidden: (params, batch, prefix=None) -> the states that predict the
      response tokens, by the type of the batch:
        TokenBatch -> [B, R, D]
        GroupBatch -> [B, N, R, D]; each prompt is read once
        PackedBatch -> [B, T, D], of `columns`; causal models only
      `prefix`, the cache of one row that all rows of a PackedBatch continue,
      comes from `prefill`.
    logits: (params, states [..., D]) -> float32 [..., V].
    prefill: (params, prompt [B, P], valid [B, P], num_new_tokens) ->
      ([B, D], cache): the state of each prompt's last token, and a cache with
      room for num_new_tokens more.
    prefill_packed: (params, batch: PackedBatch, prompts [N, W],
      num_new_tokens, prefix) -> ([N, D], cache) as from `prefill`, of N packed
      prompts. `prompts` are the columns of each prompt's tokens, counted
      through all rows of the batch, and -1 after its last. None if the model
      is not causal.
    decode_step: (params, tokens [B, L], valid [B, L], cache) ->
      ([B, L, D], cache). A causal model also takes `prefix` (the cache of one
      row that all rows continue, or None) and `columns` [B, T] to return only
      the states [B, T, D] of these.
    prepare: (params) -> PreparedParams, to be computed once per loop over
      tokens.
    cache: functions of the model's caches, None if the model is not causal.
    vocab_size: number of logits, V.
    max_length: maximum number of tokens of a prompt with its response.
    row_devices: number of devices that share the rows of a batch.
  """

  init: Callable[[jax.Array], Params]
  hidden: Callable[..., jax.Array]
  logits: Callable[[Params, jax.Array], jax.Array]
  prefill: Callable[..., tuple[jax.Array, Cache]]
  prefill_packed: Callable[..., tuple[jax.Array, Cache]] | None
  decode_step: Callable[..., tuple[jax.Array, Cache]]
  prepare: Callable[[Params], PreparedParams]
  cache: CacheFunctions | None
  vocab_size: int
  max_length: int
  row_devices: int = 1

  @property
  def is_causal(self) -> bool:
    """Whether prompts can be read in pieces, shared as prefixes and packed."""
    return self.cache is not None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScalarModel:
  """A reward model or value network as pure functions; parameters come first.

  Attributes:
    init: (key) -> parameters, boxed with their logical axis names.
    states: (params, batch) -> the scalars before each response token and after
      the last one: [B, R + 1] of a TokenBatch, [B, N, R + 1] of a GroupBatch.
    last: (params, batch) -> the scalars after the last token: [B] of a
      TokenBatch, [B, N] of a GroupBatch, [B, M] of a PackedBatch.
    is_causal: whether `last` takes a PackedBatch.
  """

  init: Callable[[jax.Array], Params]
  states: Callable[..., jax.Array]
  last: Callable[..., jax.Array]
  is_causal: bool
