# SPDX-License-Identifier: Apache-2.0
"""Contracts between packages; plain functions satisfy most of them."""

from __future__ import annotations

import dataclasses
from typing import Callable, Mapping, Protocol, Sequence

import flax.struct
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from rlaif_jax.core import batches
from rlaif_jax.core import masked
from rlaif_jax.core import records


# Arrays of a model's parameters, of adapters, or of several models.
Params = PyTree
# Arrays that only the model that made them reads.
Cache = PyTree
# Arrays with the batch as their first axis.
Batch = PyTree


class Tokenizer(Protocol):
  """Converts text to token ids and back.

  `encode(a) + encode(b) == encode(a + b)` if `a` ends or `b` starts with a
  newline, so that prompts can be assembled from encoded segments. (Public
  vocabularies may join a newline with the text before it; see
  `text.tokenizers`.)

  Attributes:
    pad_id: id of padding.
    eos_id: id that ends a response in training data.
    eos_ids: ids that end a sampled response, `eos_id` among them.
    bos_id: id that starts a sequence; None if the model has none.
    vocab_size: number of ids.
  """

  pad_id: int
  eos_id: int
  eos_ids: tuple[int, ...]
  bos_id: int | None
  vocab_size: int

  def encode(self, text: str) -> list[int]:
    """Encodes a template; names of special tokens become these tokens.

    No beginning or end token is added.
    """
    ...

  def encode_plain(self, text: str) -> list[int]:
    """Encodes a document or response; names of special tokens are text."""
    ...

  def decode(self, ids: Sequence[int]) -> str:
    """Returns the text of token ids."""
    ...


class Backend(Protocol):
  """A language model as the judges use it.

  `name` stands for what its outputs depend on, since stored labels are looked
  up by it: NAME@HASH of a model (`PretrainedModel.identity`), or host, model
  and settings of an endpoint.
  """

  name: str

  def score_options(
    self, prompts: Sequence[str], options: Sequence[str]
  ) -> tuple[list[list[float]], records.Usage]:
    """Returns the log-prob of each whole option string after each prompt."""
    ...

  def prefix_options(self, options: Sequence[str]) -> tuple[int, ...]:
    """Returns the index of each option's longest prefix option, or -1.

    The log-prob of an option includes those of options that it is a prefix
    of. All are -1 if the backend's outputs are exactly an option.
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
    """Continues each prompt.

    Args:
      prompts: texts to continue.
      max_tokens: maximum number of sampled tokens.
      temperature: of the softmax; 0 is greedy.
      top_k: samples from the k most probable tokens; 0 is off.
      seed: of the samples.
      stop: string before which a text ends; "" is none.

    Returns:
      The texts, and their usage.
    """
    ...


# Called with (index of the prompt in the call, output, usage).
OnOutput = Callable[[int, records.Output | None, records.Usage], None]


class PaidBackend(Backend, Protocol):
  """A backend whose outputs cost money; it reports each as it arrives.

  If `on_output` is set, it is called with each output, and with None for a
  failed attempt that is billed; its usage is not part of a later output's.
  """

  on_output: OnOutput | None


class LikelihoodBackend(Protocol):
  """A language model as the likelihood judge uses it."""

  name: str

  def log_likelihoods(
    self, prompts: Sequence[str], texts: Sequence[str]
  ) -> tuple[list[tuple[float, int]], records.Usage]:
    """Returns (log-prob, number of tokens) of each text after its prompt."""
    ...


class RewardError(ValueError):
  """A reward has no value for a response."""


@flax.struct.dataclass
class Scores:
  """Rewards with the parts that they are the sum of.

  Attributes:
    total: rewards.
    parts: raw values by part.
    present: whether a value is counted, by part; False where it is missing.
  """

  total: Float[Array, "B N"]
  parts: Mapping[str, Float[Array, "B N"]]
  present: Mapping[str, Bool[Array, "B N"]]


class Scorer(Protocol):
  """A reward: of a reward model, an ensemble, a labeler or a function."""

  def __call__(
    self,
    params: Params,
    prompts: batches.PromptBatch,
    response: Int[Array, "B N R"],
    mask: Float[Array, "B N R"],
  ) -> Float[Array, "B N"] | Scores:
    """Returns the float32 scores of responses; Scores if it has parts."""
    ...


class TensorSource(Protocol):
  """Named tensors of a checkpoint; several threads may read them."""

  def shapes(self) -> Mapping[str, tuple[int, ...]]:
    """Returns the shapes by tensor name."""
    ...

  def read(self, name: str, *, borrow: bool = False) -> np.ndarray:
    """Returns a tensor.

    Args:
      name: of the tensor.
      borrow: whether this thread's next read may overwrite the result.
    """
    ...

  def close(self) -> None:
    """Frees the file."""
    ...


class LossFn(Protocol):
  """A loss and its metrics as sums with their weights."""

  def __call__(
    self, params: Params, batch: Batch, key: Key[Array, ""]
  ) -> tuple[masked.WeightedSum, Mapping[str, masked.WeightedSum]]: ...


class NextBatch(Protocol):
  """The batch of a step, which depends on the training state and the step."""

  def __call__(self, state: PyTree, step: int) -> Batch: ...


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
  insert_row: Callable[[Cache, Int[Array, ""], Cache, Int[Array, ""]], Cache]


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

  init: Callable[[Key[Array, ""]], Params]
  hidden: Callable[..., Array]
  logits: Callable[[Params, Array], Array]
  prefill: Callable[..., tuple[Array, Cache]]
  prefill_packed: Callable[..., tuple[Array, Cache]] | None
  decode_step: Callable[..., tuple[Array, Cache]]
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

  init: Callable[[Key[Array, ""]], Params]
  states: Callable[..., Array]
  last: Callable[..., Array]
  is_causal: bool
