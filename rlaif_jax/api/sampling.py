# SPDX-License-Identifier: Apache-2.0
"""Samples responses of a policy, and keeps finished batches in a file."""

from __future__ import annotations

import pathlib
from typing import Callable, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rlaif_jax.core import batches
from rlaif_jax.core import jsonl
from rlaif_jax.core import protocols
from rlaif_jax.core import records
from rlaif_jax.engine import decode
from rlaif_jax.engine import processes
from rlaif_jax.engine import scoring
from rlaif_jax.model_io import pretrained


class Samples(NamedTuple):
  """Responses of a batch of prompts.

  Attributes:
    response: token ids.
    mask: 1 for tokens of the response and its end token.
    log_prob: log-prob of the response under the policy.
    ref_log_prob: log-prob under the reference; 0 without one.
  """

  response: Int[Array, "B R"]
  mask: Float[Array, "B R"]
  log_prob: Float[Array, " B"]
  ref_log_prob: Float[Array, " B"]


# (params, params of the reference, prompts, key) -> samples
Sampler = Callable[
  [protocols.Params, protocols.Params, batches.PromptBatch, jax.Array], Samples
]


def make_sampler(
  policy: pretrained.PretrainedModel,
  reference: pretrained.PretrainedModel | None,
  sampling: decode.SamplingConfig,
) -> Sampler:
  """Returns the jitted sampler of a policy.

  Args:
    policy: the policy; its parameters are an argument of the sampler.
    reference: the model of `ref_log_prob`, likewise; None: no such log-probs.
    sampling: temperature and length.
  """
  eos_ids = policy.tokenizer.eos_ids
  temperature = sampling.temperature or 1.0

  @jax.jit
  def sample(params, reference_params, prompts, key):
    drawn = decode.generate(
      policy.functions,
      params,
      prompts.prompt,
      prompts.prompt_valid,
      decode.row_keys(key, prompts.row),
      config=sampling,
      eos_ids=eos_ids,
    )
    log_prob = jnp.sum(drawn.log_probs * drawn.mask, axis=1)
    ref_log_prob = jnp.zeros_like(log_prob)
    if reference is not None:
      joined = scoring.join(prompts, drawn.response, drawn.mask)
      per_token = scoring.response_log_probs(
        reference.functions, reference_params, joined, temperature=temperature
      )
      ref_log_prob = jnp.sum(jnp.where(drawn.mask > 0, per_token, 0.0), axis=1)
    return Samples(drawn.response, drawn.mask, log_prob, ref_log_prob)

  return sample


def to_response(
  example: records.Example,
  index: int,
  samples: Samples,
  row: int,
  tokenizer: protocols.Tokenizer,
) -> records.Response:
  """Returns one row of samples on the host as a record, without end token.

  Args:
    example: the example whose context was the prompt.
    index: number of the sample among those of this context.
    samples: host arrays.
    row: row of the batch.
    tokenizer: the policy's tokenizer.
  """
  length = int(samples.mask[row].sum())
  ids = [int(token) for token in samples.response[row][:length]]
  finished = bool(ids) and ids[-1] in tokenizer.eos_ids
  return records.Response(
    id=example.id,
    index=index,
    context=example.context,
    text=tokenizer.decode(ids[:-1] if finished else ids).strip(),
    tokens=length,
    finished=finished,
    log_prob=float(samples.log_prob[row]),
    ref_log_prob=float(samples.ref_log_prob[row]),
  )


def _batch(rows: object) -> list[records.Response]:
  return [records.from_row(records.Response, row) for row in rows]


class FinishedBatches:
  """Responses of finished batches in a JSONL file, one line per batch.

  Reads what an earlier start has written; `responses` has one list per batch.
  """

  def __init__(self, path: pathlib.Path):
    self._path = path
    if processes.is_writer():
      jsonl.cut_torn_line(path)
    # All processes read the same lines before one of them appends.
    processes.wait_for_all(f"sample, {path}")
    self.responses: list[list[records.Response]] = []
    if path.exists():
      self.responses = jsonl.parse_rows(path, _batch)

  def append(self, responses: list[records.Response]) -> None:
    """Adds a finished batch."""
    self.responses.append(responses)
    if processes.is_writer():
      self._path.parent.mkdir(parents=True, exist_ok=True)
      rows = [records.to_row(response) for response in responses]
      with open(self._path, "a", encoding="utf-8") as f:
        f.write(jsonl.dump_row(rows) + "\n")
        f.flush()
