# SPDX-License-Identifier: Apache-2.0
"""Encodes texts as padded token arrays, and orders the rows of a training.

`context` is a document, `prompt` the context with the constant text around it,
and `response` the text after the prompt. All arrays are numpy, on the host.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal, Sequence

import numpy as np

from rlaif_jax.core import batches
from rlaif_jax.core import protocols
from rlaif_jax.core import records
from rlaif_jax.core import rng
from rlaif_jax.core import validation
from rlaif_jax.text import long_texts


# Public models pad their embedding tables to a round number of rows. A larger
# difference means that tokenizer and model do not belong together.
MAX_UNUSED_ROWS = 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequenceConfig(validation.Validated):
  """Lengths of a row in tokens, and the constant text around a context.

  A prompt is [bos] + prefix + context + suffix. Texts that are joined at a
  newline have the ids of their parts.

  Attributes:
    max_context: maximum number of context tokens; more are truncated.
    max_response: maximum number of response tokens, with the end token.
    prefix: text before the context.
    suffix: text after the context.
    truncate: the part of a long context that is dropped. Documents lose their
      "end"; dialogues should lose their "start", since the last turn is the
      one to answer.
  """

  max_context: validation.PositiveInt
  max_response: Annotated[int, validation.Bounds(ge=2)]
  prefix: str = ""
  suffix: str = ""
  truncate: Literal["start", "end"] = "end"


def prompt_length(
  config: SequenceConfig, tokenizer: protocols.Tokenizer
) -> int:
  """Returns the maximum number of tokens of a prompt."""
  fixed = len(tokenizer.encode(config.prefix) + tokenizer.encode(config.suffix))
  return config.max_context + fixed + (tokenizer.bos_id is not None)


def check_fits(
  config: SequenceConfig,
  tokenizer: protocols.Tokenizer,
  *,
  vocab_size: int,
  max_length: int,
) -> None:
  """Checks that tokenizer and lengths fit a model.

  Args:
    config: lengths of a row.
    tokenizer: tokenizer of the rows.
    vocab_size: rows of the model's embedding table.
    max_length: maximum number of tokens that the model reads.

  Raises:
    ValueError: if the vocabulary or the lengths do not fit.
  """
  size = tokenizer.vocab_size
  if not vocab_size - MAX_UNUSED_ROWS < size <= vocab_size:
    raise ValueError(
      f"the tokenizer has {size} pieces and the model {vocab_size}; use the "
      "tokenizer that the checkpoint was trained with"
    )
  length = prompt_length(config, tokenizer) + config.max_response
  if length > max_length:
    raise ValueError(
      f"prompt and response take up to {length} tokens and the model reads "
      f"{max_length}; lower SequenceConfig.max_context "
      f"({config.max_context}) or max_response ({config.max_response}), or "
      "raise DecoderConfig.max_length"
    )


def pad_left(
  rows: Sequence[Sequence[int]], length: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns tokens [n, length] int32 and valid [n, length] bool of n rows."""
  tokens = np.zeros((len(rows), length), np.int32)
  valid = np.zeros((len(rows), length), bool)
  for i, row in enumerate(rows):
    if row:
      tokens[i, length - len(row) :] = row
      valid[i, length - len(row) :] = True
  return tokens, valid


def encode_prompts(
  contexts: Sequence[str],
  tokenizer: protocols.Tokenizer,
  config: SequenceConfig,
) -> tuple[batches.PromptBatch, int]:
  """Encodes n contexts as left-padded prompts; truncates long contexts.

  Returns:
    A PromptBatch of n rows, and the number of truncated contexts.
  """
  begin = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
  prefix = begin + tokenizer.encode(config.prefix)
  suffix = tokenizer.encode(config.suffix)
  size, encode = config.max_context, tokenizer.encode_plain
  kept = slice(size) if config.truncate == "end" else slice(-size, None)
  ids = [
    long_texts.ids(encode, text, size, config.truncate) for text in contexts
  ]
  cut = sum(len(row) > config.max_context for row in ids)
  ids = [row[kept] for row in ids]
  length = len(prefix) + config.max_context + len(suffix)
  prompt, prompt_valid = pad_left([prefix + r + suffix for r in ids], length)
  context, context_valid = pad_left(ids, config.max_context)
  batch = batches.PromptBatch(
    prompt=prompt,
    prompt_valid=prompt_valid,
    context=context,
    context_valid=context_valid,
    row=np.arange(len(ids), dtype=np.int32),
  )
  return batch, cut


def encode_responses(
  texts: Sequence[str],
  tokenizer: protocols.Tokenizer,
  max_response: int,
) -> tuple[np.ndarray, np.ndarray, int]:
  """Encodes n responses with their end token, right-padded.

  A response of more than max_response - 1 tokens is truncated and has no end
  token, so that no model is trained to end where a response was truncated.

  Returns:
    tokens [n, R] int32, mask [n, R] float32, and the number of truncated
    responses.
  """
  tokens = np.zeros((len(texts), max_response), np.int32)
  mask = np.zeros((len(texts), max_response), np.float32)
  cut = 0
  for i, text in enumerate(texts):
    ids = long_texts.ids(tokenizer.encode_plain, text, max_response)
    ids = [*ids, tokenizer.eos_id]
    cut += len(ids) > max_response
    ids = ids[:max_response]
    tokens[i, : len(ids)] = ids
    mask[i, : len(ids)] = 1.0
  return tokens, mask, cut


def token_batch(
  prompts: batches.PromptBatch, response: np.ndarray, mask: np.ndarray
) -> batches.TokenBatch:
  """Returns prompts joined with responses; see `batches.TokenBatch`."""
  return batches.TokenBatch(
    tokens=np.concatenate([prompts.prompt, response], axis=1),
    valid=np.concatenate([prompts.prompt_valid, mask > 0], axis=1),
    weights=mask.astype(np.float32),
  )


def encode_examples(
  examples: Sequence[records.Example],
  tokenizer: protocols.Tokenizer,
  config: SequenceConfig,
) -> tuple[batches.TokenBatch, dict[str, int]]:
  """Encodes examples; returns also the counts of truncated texts."""
  prompts, cut_contexts = encode_prompts(
    [e.context for e in examples], tokenizer, config
  )
  response, mask, cut_responses = encode_responses(
    [e.response for e in examples], tokenizer, config.max_response
  )
  counts = {"cut_contexts": cut_contexts, "cut_responses": cut_responses}
  return token_batch(prompts, response, mask), counts


def encode_preferences(
  preferences: Sequence[records.Preference],
  tokenizer: protocols.Tokenizer,
  config: SequenceConfig,
) -> tuple[batches.PairBatch, dict[str, int]]:
  """Encodes labelled pairs; returns also the counts of truncated texts."""
  prompts, cut_contexts = encode_prompts(
    [p.context for p in preferences], tokenizer, config
  )
  first, first_mask, cut_first = encode_responses(
    [p.first for p in preferences], tokenizer, config.max_response
  )
  second, second_mask, cut_second = encode_responses(
    [p.second for p in preferences], tokenizer, config.max_response
  )
  batch = batches.PairBatch(
    texts=batches.GroupBatch(
      prompt=prompts.prompt,
      prompt_valid=prompts.prompt_valid,
      response=np.stack([first, second], axis=1),
      response_valid=np.stack([first_mask, second_mask], axis=1) > 0,
    ),
    label=np.asarray([p.p_first for p in preferences], np.float32),
    weight=np.asarray([p.weight for p in preferences], np.float32),
  )
  counts = {
    "cut_contexts": cut_contexts,
    "cut_responses": cut_first + cut_second,
  }
  return batch, counts


def take(arrays: batches.Tree, rows: np.ndarray) -> batches.Tree:
  """Returns the given rows of every array of a batch."""
  import jax

  return jax.tree.map(lambda x: x[rows], arrays)


def epoch_rows(
  *, num_rows: int, batch_size: int, seed: int, name: str, step: int
) -> np.ndarray:
  """Returns the row indices of the batch of a step.

  They depend on (seed, name, step) only. Every epoch is a new permutation, and
  a batch may cross epochs, so that no row is dropped.

  Raises:
    ValueError: if there are no rows.
  """
  if num_rows < 1:
    raise ValueError(
      f"{name}: the split has no rows; it needs at least one to train on"
    )
  begin = step * batch_size
  result: list[np.ndarray] = []
  need = batch_size
  while need:
    epoch, offset = divmod(begin, num_rows)
    order = rng.numpy_generator(seed, f"{name}/epoch", epoch).permutation(
      num_rows
    )
    part = order[offset : offset + need]
    result.append(part)
    begin, need = begin + len(part), need - len(part)
  return np.concatenate(result)


def chunks(num_rows: int, size: int) -> list[tuple[np.ndarray, int]]:
  """Returns row indices in chunks of one size, for one compiled shape.

  The last chunk is filled with copies of its last row.

  Returns:
    (indices [size], number of rows without copies) of each chunk.
  """
  result = []
  for begin in range(0, num_rows, size):
    rows = np.arange(begin, begin + size)
    real = min(size, num_rows - begin)
    result.append((np.minimum(rows, num_rows - 1), real))
  return result
