# SPDX-License-Identifier: Apache-2.0
"""Where a language model answers: a Flax model in this process.

Prompts are sorted into length buckets, so each bucket compiles once whatever
the texts, and a causal model reads what prompts share once, what all of them
begin with once for all calls; answers come back in the order of the questions.
"""

from __future__ import annotations

import collections
import functools
from typing import Any, Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from rlaif_jax.core import batches
from rlaif_jax.core import protocols
from rlaif_jax.core import records
from rlaif_jax.core import rng
from rlaif_jax.engine import decode
from rlaif_jax.engine import prefix_sharing
from rlaif_jax.engine import processes
from rlaif_jax.engine import scoring
from rlaif_jax.labeling import packed_prompts
from rlaif_jax.labeling import prefixes
from rlaif_jax.labeling import option_probs

# Beginnings whose keys and values are kept for later calls: a judge with
# rationales has two.
KEPT = 4


class FlaxBackend:
  """A `protocols.Backend` over a language model on this process's devices.

  Args:
    model: functions of the language model.
    params: its parameters.
    tokenizer: encodes prompts and options.
    name: goes into label stores; say which checkpoint it is.
    batch_size: rows of one device call.
    bucket: prompts are padded to multiples of this many tokens; see
      `prefixes.bucket_length`.
    chat: text before and after a user message, of an instruct model; each
      prompt is one user message.
    progress: called with (prompts done, prompts in all) after each batch.
  """

  def __init__(
    self,
    model: protocols.LanguageModel,
    params: Any,
    tokenizer: protocols.Tokenizer,
    *,
    name: str,
    batch_size: int = 64,
    bucket: int = 32,
    chat: tuple[str, str] = ("", ""),
    progress: Callable[[int, int], None] | None = None,
  ):
    self.name = name
    self._model = model
    self._params = params
    self._tokenizer = tokenizer
    self._batch_size = batch_size
    self._bucket = bucket
    bos = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    self._begin = bos + tokenizer.encode(chat[0])
    self._end = tokenizer.encode(chat[1])
    self._progress = progress
    # A causal model reads what prompts share once.
    self._beginnings = collections.OrderedDict()
    self._prefill_prefix = jax.jit(
      functools.partial(prefix_sharing.prefill_prefix, model)
    )
    options, generate = (
      (scoring.shared_option_log_probs, decode.generate_shared)
      if model.is_causal
      else (scoring.option_log_probs, decode.generate)
    )
    self._option_log_probs = jax.jit(
      functools.partial(options, model), static_argnames="options"
    )
    self._packed_log_probs = jax.jit(
      functools.partial(scoring.packed_option_log_probs, model),
      static_argnames="options",
    )
    self._generate, self._generate_packed = (
      jax.jit(
        functools.partial(write, model), static_argnames=("config", "eos_ids")
      )
      for write in (generate, decode.generate_packed)
    )
    self._shared_likelihoods = jax.jit(
      functools.partial(scoring.shared_log_likelihoods, model)
    )
    self._response_log_prob = jax.jit(
      functools.partial(_response_log_prob, model)
    )

  def encode(self, prompt: str) -> list[int]:
    """Token ids of a prompt, the beginning-of-sequence included."""
    return [*self._begin, *self._tokenizer.encode_plain(prompt), *self._end]

  def score_options(
    self, prompts: Sequence[str], options: Sequence[str]
  ) -> tuple[list[list[float]], records.Usage]:
    """Log-prob of each option's whole string; see `protocols.Backend`."""
    option_ids = tuple(tuple(self._tokenizer.encode(o)) for o in options)
    ids = [self.encode(prompt) for prompt in prompts]
    result: list[list[float]] = [[] for _ in ids]
    longest = max(len(option) for option in option_ids)
    limit = self._limit(ids, longest - 1)
    answers = self._option_rows(ids, option_ids, limit)
    documents = self._documents(ids) if longest == 1 else None
    if documents is not None:
      answers = self._packed_option_rows(documents, option_ids)
    for row, values in answers:
      result[row] = [float(value) for value in values]
    usage = records.Usage(
      input_tokens=sum(map(len, ids)),
      output_tokens=len(ids),
      requests=len(ids),
    )
    return result, usage

  def _option_rows(self, ids: list[list[int]], options: Any, limit: int):
    """Yields (prompt, its log-probs)."""
    for rows, inputs in self._inputs(ids, limit, self._bucket):
      log_probs = processes.to_host(
        self._option_log_probs(self._params, *inputs, options=options)
      )
      yield from zip(rows, log_probs, strict=False)

  def _packed_option_rows(
    self, documents: packed_prompts.Documents, options: Any
  ):
    """The same of a causal model, where one step gives all options."""
    for part in self._packed(documents):
      log_probs = processes.to_host(
        self._packed_log_probs(
          self._params, self._common(part.common), part.batch, options=options
        )
      )
      for prompt, row, number in part.places:
        yield prompt, log_probs[row, number]

  def log_likelihoods(
    self, prompts: Sequence[str], texts: Sequence[str]
  ) -> tuple[list[tuple[float, int]], records.Usage]:
    """(log-prob, tokens) of each text right after its prompt, no end token.

    Raises:
      ValueError: a text has no tokens, or does not fit.
    """
    ids = [self.encode(prompt) for prompt in prompts]
    own = [self._tokenizer.encode_plain(text) for text in texts]
    if not all(own):
      raise ValueError("an empty text has no likelihood; leave it out")
    usage = records.Usage(
      input_tokens=sum(map(len, ids)) + sum(map(len, own)), requests=len(ids)
    )
    read = self._read_shared if self._model.is_causal else self._read_whole
    sums = [0.0] * len(ids)
    for rows, values in read(ids, own):
      for row, value in zip(rows, processes.to_host(values), strict=False):
        sums[row] = float(value)
    return list(zip(sums, map(len, own), strict=True)), usage

  def _read_shared(self, ids: list[list[int]], own: list[list[int]]):
    """Yields (rows, log-probs of their texts) of a causal model."""
    self._limit(ids, max(map(len, own), default=0))
    whole = [prompt + text for prompt, text in zip(ids, own, strict=True)]
    # The first token of a text is predicted after the prompt's last.
    for rows, (common, batch) in self._shared(
      whole, [len(text) + 1 for text in own], self._bucket
    ):
      weights = np.zeros(batch.suffix.shape, np.float32)
      for i, row in enumerate(rows):
        weights[i, -len(own[row]) :] = 1.0
      yield rows, self._shared_likelihoods(self._params, common, batch, weights)

  def _read_whole(self, ids: list[list[int]], own: list[list[int]]):
    """Yields (rows, log-probs of their texts) of any model."""
    longest = max(map(len, own), default=0)
    room = prefixes.bucket_length(longest, self._bucket)
    limit = self._limit(ids, room)
    for rows, tokens, valid in self._batches(ids, limit, self._bucket):
      response = np.zeros((len(tokens), room), np.int32)
      mask = np.zeros((len(tokens), room), np.float32)
      for i, row in enumerate(rows):
        response[i, : len(own[row])] = own[row]
        mask[i, : len(own[row])] = 1.0
      batch = batches.TokenBatch(
        tokens=np.concatenate([tokens, response], axis=1),
        valid=np.concatenate([valid, mask > 0], axis=1),
        weights=mask,
      )
      yield rows, self._response_log_prob(self._params, batch)

  def prefix_options(self, options: Sequence[str]) -> tuple[int, ...]:
    """See `protocols.Backend`."""
    return option_probs.prefix_options(options, self._tokenizer)

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
    """Continues prompts; the same text for the same seed and prompt.

    A prompt that is asked several times in one call gets another sample each
    time (its key counts the repetitions).
    """
    config = decode.SamplingConfig(
      max_tokens=max_tokens, temperature=temperature, top_k=top_k
    )
    ids = [self.encode(prompt) for prompt in prompts]
    seen: dict[str, int] = {}
    seeds = []
    for prompt in prompts:
      seen[prompt] = seen.get(prompt, -1) + 1
      name = records.content_id(prompt, str(seen[prompt]))
      seeds.append(int(name[:8], 16) & 0x7FFFFFFF)
    key = rng.key(seed, "labeling/complete")
    eos_ids = self._tokenizer.eos_ids
    texts = [""] * len(ids)
    written = 0
    limit = self._limit(ids, max_tokens)
    for write, rows, inputs in self._to_write_after(ids, limit):
      numbers = np.zeros(jax.tree.leaves(inputs)[-1].shape[0], np.int32)
      numbers[: len(rows)] = [seeds[row] for row in rows]
      keys = decode.row_keys(key, numbers)
      drawn = write(self._params, *inputs, keys, config=config, eos_ids=eos_ids)
      response, mask = processes.to_host((drawn.response, drawn.mask))
      lengths = mask.sum(axis=1).astype(int)
      for i, row in enumerate(rows):
        written += int(lengths[i])
        kept = [t for t in response[i, : lengths[i]] if t not in eos_ids]
        text = self._tokenizer.decode([int(t) for t in kept])
        texts[row] = text.split(stop)[0] if stop else text
    usage = records.Usage(
      input_tokens=sum(map(len, ids)),
      output_tokens=written,
      requests=len(ids),
    )
    return texts, usage

  def _to_write_after(self, ids: list[list[int]], limit: int):
    """Yields (program, rows, its arrays): prompts are packed if it is worth it.

    Prompts are padded to few lengths, since the programs are long to compile.
    """
    bucket = 4 * self._bucket
    documents = self._documents(ids)
    if documents is None:
      for rows, inputs in self._inputs(ids, limit, bucket):
        yield self._generate, rows, inputs
      return
    for part in self._packed(documents):
      rows = [place[0] for place in part.places]
      inputs = (self._common(part.common), part.batch, part.columns(bucket))
      yield self._generate_packed, rows, inputs

  def _inputs(self, ids: list[list[int]], limit: int, bucket: int):
    """Yields (rows, arrays): see `_shared`, or [B, L] tokens and valid."""
    if self._model.is_causal:
      yield from self._shared(ids, [1] * len(ids), bucket)
    else:
      for rows, tokens, valid in self._batches(ids, limit, bucket):
        yield rows, (tokens, valid)

  def _limit(self, ids: list[list[int]], room: int) -> int:
    """The most tokens of a prompt.

    Raises:
      ValueError: a prompt has more, or none.
    """
    limit = self._model.max_length - room
    for row, tokens in enumerate(ids):
      if len(tokens) > limit:
        raise ValueError(
          f"prompt {row} has {len(tokens)} tokens; with {room} more to write "
          f"the labeler {self.name} reads at most {limit}. Lower the "
          "judge's max_context_tokens, or take a model with a longer "
          "max_length"
        )
      if not tokens:
        raise ValueError(
          f"prompt {row} is empty, and the labeler {self.name} has no token "
          "that begins a sequence; ask it something"
        )
    return limit

  def _documents(self, ids: list[list[int]]):
    """The documents of prompts, or None where packing is not worth it."""
    if not self._model.is_causal:
      return None
    documents = packed_prompts.documents_of(ids, bucket=self._bucket)
    return documents if documents.differ else None

  def _packed(self, documents: packed_prompts.Documents):
    """Yields the parts of documents; see `packed_prompts.pack`."""
    done = 0
    for part in packed_prompts.pack(documents, batch_size=self._batch_size):
      yield part
      done += len(part.places)
      self._report(done, len(documents.ids))

  def _shared(self, ids: list[list[int]], own: list[int], bucket: int):
    """Yields (rows, (prefix, SharedPrompts)); see `prefixes.share`."""
    done = 0
    for part in prefixes.share(
      ids, own, batch_size=self._batch_size, bucket=bucket
    ):
      yield part.rows, (self._common(part.common), part.batch)
      done += len(part.rows)
      self._report(done, len(ids))

  def _report(self, done: int, total: int) -> None:
    if self._progress is not None:
      self._progress(done, total)

  def _common(self, tokens: tuple[int, ...]) -> Any:
    """The cache of a beginning; those that were used last are kept."""
    if tokens not in self._beginnings:
      row = prefixes.common_row(tokens, bucket=self._bucket)
      self._beginnings[tokens] = self._prefill_prefix(self._params, *row)
    self._beginnings.move_to_end(tokens)
    if len(self._beginnings) > KEPT:
      self._beginnings.popitem(last=False)
    return self._beginnings[tokens]

  def _batches(self, ids: list[list[int]], limit: int, bucket: int):
    """Yields (rows, tokens [B, L], valid [B, L]) with few distinct L."""
    buckets: dict[int, list[int]] = {}
    for row, tokens in enumerate(ids):
      length = prefixes.bucket_length(len(tokens), bucket)
      buckets.setdefault(min(length, limit), []).append(row)
    done = 0
    for length in sorted(buckets):
      members = buckets[length]
      for begin in range(0, len(members), self._batch_size):
        rows = members[begin : begin + self._batch_size]
        # A rest is padded to a power of two: few shapes, little waste.
        padded = min(prefixes.power_of_two(len(rows)), self._batch_size)
        tokens = np.zeros((padded, length), np.int32)
        valid = np.zeros((padded, length), bool)
        for i, row in enumerate(rows):
          tokens[i, length - len(ids[row]) :] = ids[row]
          valid[i, length - len(ids[row]) :] = True
        yield rows, tokens, valid
        done += len(rows)
        self._report(done, len(ids))


def _response_log_prob(model, params, batch: batches.TokenBatch) -> jax.Array:
  """[B] log-probs of whole responses."""
  log_probs = scoring.response_log_probs(model, params, batch)
  return jnp.sum(jnp.where(batch.weights > 0, log_probs, 0.0), axis=1)
