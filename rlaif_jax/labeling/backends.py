# SPDX-License-Identifier: Apache-2.0
"""A judge's backend on a language model in this process.

Prompts are sorted into length buckets, each of which compiles one program. A
causal model prefills shared prefixes once, and the prefix of all prompts once
for all calls. Results are in the order of the prompts.
"""

from __future__ import annotations

import collections
import functools
from typing import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

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

# Prefixes whose caches are kept for later calls; a judge with rationales has
# two.
NUM_PREFIXES = 4

# Prompts of one device call: their indices and the arrays that programs take.
Call = tuple[list[int], tuple]


class FlaxBackend:
  """A `protocols.Backend` on a language model on this process's devices.

  Args:
    model: functions of the language model.
    params: model parameters.
    tokenizer: encodes prompts and options.
    name: NAME@HASH of the model, by which label stores keep its labels.
    batch_size: maximum number of prompts of a device call.
    bucket: prompts are padded to multiples of this many tokens; see
      `prefixes.bucket_length`.
    chat: text before and after a user message of an instruct model. Each
      prompt is one user message.
    progress: called with (prompts done, all prompts) after each device call.
  """

  def __init__(
    self,
    model: protocols.LanguageModel,
    params: protocols.Params,
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
    self._before = bos + tokenizer.encode(chat[0])
    self._after = tokenizer.encode(chat[1])
    self._progress = progress
    self._prefixes = collections.OrderedDict()
    self._prefill_prefix = jax.jit(
      functools.partial(prefix_sharing.prefill_prefix, model)
    )
    options, generate = (
      (scoring.shared_option_log_probs, decode.generate_shared)
      if model.is_causal
      else (scoring.option_log_probs, decode.generate)
    )
    self._option_log_probs, self._packed_option_log_probs = (
      jax.jit(functools.partial(read, model), static_argnames="options")
      for read in (options, scoring.packed_option_log_probs)
    )
    self._generate, self._generate_packed = (
      jax.jit(
        functools.partial(sample, model),
        static_argnames=("config", "eos_ids"),
      )
      for sample in (generate, decode.generate_packed)
    )
    self._shared_log_likelihoods = jax.jit(
      functools.partial(scoring.shared_log_likelihoods, model)
    )
    self._log_likelihoods = jax.jit(functools.partial(_log_likelihoods, model))

  def encode(self, prompt: str) -> list[int]:
    """Returns the token ids of a prompt, with its beginning-of-sequence."""
    return [*self._before, *self._tokenizer.encode_plain(prompt), *self._after]

  def score_options(
    self, prompts: Sequence[str], options: Sequence[str]
  ) -> tuple[list[list[float]], records.Usage]:
    """Returns the log-prob of each option; see `protocols.Backend`."""
    option_ids = option_probs.option_ids(options, self._tokenizer)
    ids = [self.encode(prompt) for prompt in prompts]
    result: list[list[float]] = [[] for _ in ids]
    longest = max(len(option) for option in option_ids)
    limit = self._max_prompt(ids, longest - 1)
    found = self._score_options(ids, option_ids, limit)
    segments = self._uneven_segments(ids) if longest == 1 else None
    if segments is not None:
      found = self._score_packed_options(segments, option_ids)
    for prompt, log_probs in found:
      result[prompt] = [float(log_prob) for log_prob in log_probs]
    usage = records.Usage(
      input_tokens=sum(map(len, ids)),
      output_tokens=len(ids),
      requests=len(ids),
    )
    return result, usage

  def _score_options(
    self, ids: list[list[int]], options: scoring.OptionIds, limit: int
  ) -> Iterator[tuple[int, Float[np.ndarray, " options"]]]:
    """Yields each prompt's index and the log-probs of its options."""
    for rows, inputs in self._calls(ids, limit, self._bucket):
      log_probs = processes.to_host(
        self._option_log_probs(self._params, *inputs, options=options)
      )
      yield from zip(rows, log_probs, strict=False)

  def _score_packed_options(
    self, segments: packed_prompts.Segments, options: scoring.OptionIds
  ) -> Iterator[tuple[int, Float[np.ndarray, " options"]]]:
    """`_score_options` of a causal model and options of one token each."""
    for call in self._packed_calls(segments):
      prefix = self._prefix_cache(call.prefix)
      log_probs = processes.to_host(
        self._packed_option_log_probs(
          self._params, prefix, call.batch, options=options
        )
      )
      for prompt, row, number in call.places:
        yield prompt, log_probs[row, number]

  def log_likelihoods(
    self, prompts: Sequence[str], texts: Sequence[str]
  ) -> tuple[list[tuple[float, int]], records.Usage]:
    """Returns (log-prob, number of tokens) of each text after its prompt.

    The text has no end token.

    Raises:
      ValueError: a text has no tokens, or does not fit.
    """
    ids = [self.encode(prompt) for prompt in prompts]
    own = [self._tokenizer.encode_plain(text) for text in texts]
    if not all(own):
      raise ValueError("an empty text has no log-likelihood; leave it out")
    usage = records.Usage(
      input_tokens=sum(map(len, ids)) + sum(map(len, own)), requests=len(ids)
    )
    read = self._read_shared if self._model.is_causal else self._read_whole
    sums = [0.0] * len(ids)
    for rows, values in read(ids, own):
      for row, value in zip(rows, processes.to_host(values), strict=False):
        sums[row] = float(value)
    return list(zip(sums, map(len, own), strict=True)), usage

  def _read_shared(
    self, ids: list[list[int]], own: list[list[int]]
  ) -> Iterator[tuple[list[int], Float[Array, " B"]]]:
    """Yields (rows, log-likelihoods of their texts) of a causal model."""
    self._max_prompt(ids, max(map(len, own), default=0))
    whole = [prompt + text for prompt, text in zip(ids, own, strict=True)]
    # The prompt's last token predicts the first token of the text.
    num_own = [len(text) + 1 for text in own]
    for rows, (prefix, prompts) in self._shared_calls(
      whole, num_own, self._bucket
    ):
      weights = np.zeros(prompts.suffix.shape, np.float32)
      for i, row in enumerate(rows):
        weights[i, -len(own[row]) :] = 1.0
      yield (
        rows,
        self._shared_log_likelihoods(self._params, prefix, prompts, weights),
      )

  def _read_whole(
    self, ids: list[list[int]], own: list[list[int]]
  ) -> Iterator[tuple[list[int], Float[Array, " B"]]]:
    """Yields (rows, log-likelihoods of their texts) of any model."""
    longest = max(map(len, own), default=0)
    length = prefixes.bucket_length(longest, self._bucket)
    limit = self._max_prompt(ids, length)
    for rows, (tokens, valid) in self._padded_calls(ids, limit, self._bucket):
      response = np.zeros((len(tokens), length), np.int32)
      mask = np.zeros((len(tokens), length), np.float32)
      for i, row in enumerate(rows):
        response[i, : len(own[row])] = own[row]
        mask[i, : len(own[row])] = 1.0
      batch = batches.TokenBatch(
        tokens=np.concatenate([tokens, response], axis=1),
        valid=np.concatenate([valid, mask > 0], axis=1),
        weights=mask,
      )
      yield rows, self._log_likelihoods(self._params, batch)

  def prefix_options(self, options: Sequence[str]) -> tuple[int, ...]:
    """Returns each option's longest prefix option; see `protocols.Backend`."""
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
    """Continues prompts; equal seeds and prompts give equal texts.

    A prompt that occurs several times in a call has a different sample for
    each occurrence.
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
    num_sampled = 0
    limit = self._max_prompt(ids, max_tokens)
    for generate, rows, inputs in self._generate_calls(ids, limit):
      numbers = np.zeros(jax.tree.leaves(inputs)[-1].shape[0], np.int32)
      numbers[: len(rows)] = [seeds[row] for row in rows]
      samples = generate(
        self._params,
        *inputs,
        decode.row_keys(key, numbers),
        config=config,
        eos_ids=eos_ids,
      )
      response, mask = processes.to_host((samples.response, samples.mask))
      lengths = mask.sum(axis=1).astype(int)
      for i, row in enumerate(rows):
        num_sampled += int(lengths[i])
        kept = [t for t in response[i, : lengths[i]] if t not in eos_ids]
        text = self._tokenizer.decode([int(t) for t in kept])
        texts[row] = text.split(stop)[0] if stop else text
    usage = records.Usage(
      input_tokens=sum(map(len, ids)),
      output_tokens=num_sampled,
      requests=len(ids),
    )
    return texts, usage

  def _generate_calls(
    self, ids: list[list[int]], limit: int
  ) -> Iterator[
    tuple[Callable[..., decode.SampledResponses], list[int], tuple]
  ]:
    """Yields (program, rows, its arrays); prompts are packed if that is faster.

    Prompts are padded to fewer lengths than for scoring, since these programs
    take longer to compile.
    """
    bucket = 4 * self._bucket
    segments = self._uneven_segments(ids)
    if segments is None:
      for rows, inputs in self._calls(ids, limit, bucket):
        yield self._generate, rows, inputs
      return
    for call in self._packed_calls(segments):
      rows = [place[0] for place in call.places]
      prefix = self._prefix_cache(call.prefix)
      inputs = (prefix, call.batch, call.columns(bucket))
      yield self._generate_packed, rows, inputs

  def _calls(
    self, ids: list[list[int]], limit: int, bucket: int
  ) -> Iterator[Call]:
    """Returns the calls of a causal model, or of any other."""
    if self._model.is_causal:
      return self._shared_calls(ids, [1] * len(ids), bucket)
    return self._padded_calls(ids, limit, bucket)

  def _max_prompt(self, ids: list[list[int]], num_new_tokens: int) -> int:
    """Returns the maximum number of tokens of a prompt.

    Raises:
      ValueError: a prompt has more, or none.
    """
    limit = self._model.max_length - num_new_tokens
    for row, tokens in enumerate(ids):
      if len(tokens) > limit:
        raise ValueError(
          f"prompt {row} has {len(tokens)} tokens; with {num_new_tokens} more "
          f"after it, the labeler {self.name} reads at most {limit}. Lower the "
          "judge's max_context_tokens, or use a model with a larger max_length"
        )
      if not tokens:
        raise ValueError(
          f"prompt {row} is empty, and the labeler {self.name} has no "
          "beginning-of-sequence token; prompts must not be empty"
        )
    return limit

  def _uneven_segments(
    self, ids: list[list[int]]
  ) -> packed_prompts.Segments | None:
    """Returns the prompts' segments, or None if packing is not faster."""
    if not self._model.is_causal:
      return None
    segments = packed_prompts.make_segments(ids, bucket=self._bucket)
    return segments if segments.is_uneven else None

  def _packed_calls(
    self, segments: packed_prompts.Segments
  ) -> Iterator[packed_prompts.PackedCall]:
    """Yields packed prompts and reports progress."""
    done = 0
    for call in packed_prompts.pack(segments, batch_size=self._batch_size):
      yield call
      done += len(call.places)
      self._report(done, len(segments.ids))

  def _shared_calls(
    self, ids: list[list[int]], own: list[int], bucket: int
  ) -> Iterator[Call]:
    """Yields (rows, (prefix, prompts)); see `prefixes.share_prefixes`."""
    done = 0
    for call in prefixes.share_prefixes(
      ids, own, batch_size=self._batch_size, bucket=bucket
    ):
      yield call.rows, (self._prefix_cache(call.prefix), call.prompts)
      done += len(call.rows)
      self._report(done, len(ids))

  def _report(self, done: int, total: int) -> None:
    if self._progress is not None:
      self._progress(done, total)

  def _prefix_cache(self, tokens: tuple[int, ...]) -> protocols.Cache:
    """Returns the cache of a prefix; those used last are kept."""
    if tokens not in self._prefixes:
      row = prefixes.prefix_row(tokens, bucket=self._bucket)
      self._prefixes[tokens] = self._prefill_prefix(self._params, *row)
    self._prefixes.move_to_end(tokens)
    if len(self._prefixes) > NUM_PREFIXES:
      self._prefixes.popitem(last=False)
    return self._prefixes[tokens]

  def _padded_calls(
    self, ids: list[list[int]], limit: int, bucket: int
  ) -> Iterator[Call]:
    """Yields (rows, (tokens, valid)); see `prefixes.pad_prompts`."""
    done = 0
    for rows, *arrays in prefixes.pad_prompts(
      ids, limit, batch_size=self._batch_size, bucket=bucket
    ):
      yield rows, tuple(arrays)
      done += len(rows)
      self._report(done, len(ids))


def _log_likelihoods(
  model: protocols.LanguageModel,
  params: protocols.Params,
  batch: batches.TokenBatch,
) -> Float[Array, " B"]:
  """Returns the log-probs of whole responses."""
  log_probs = scoring.response_log_probs(model, params, batch)
  return jnp.sum(jnp.where(batch.weights > 0, log_probs, 0.0), axis=1)
