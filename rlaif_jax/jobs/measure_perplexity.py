# SPDX-License-Identifier: Apache-2.0
"""Perplexity of a language model on the texts of a task, or on its responses.

In nats a token, and only comparable between models with one vocabulary.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
from typing import Any

import jax
import numpy as np

from rlaif_jax.core import batches
from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.data import converters
from rlaif_jax.data import datasets
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.engine import metrics
from rlaif_jax.engine import scoring
from rlaif_jax.model_io import pretrained
from rlaif_jax.models import decoder
from rlaif_jax.ops import statistics


def run(
  *,
  output_dir: str,
  model_dir: str,
  target: str = "text",
  data_dir: str = "",
  examples_file: str = "",
  task: str = "",
  split: str = "test",
  limit: int = 0,
  max_tokens: int = 256,
  batch_size: int = 16,
  mesh: str = "data:-1",
) -> dict[str, Any]:
  """Writes losses.jsonl, a row per text, and the perplexity of all.

  Args:
    output_dir: where both go.
    model_dir: a finished language model.
    target: "text": the contexts themselves, each token after those before
      it, the first one given; "response": the human-written responses after
      their prompts, the end token counted.
    data_dir: of `prepare`, when a task is named.
    examples_file: JSONL of examples, instead of a task.
    task: whose texts are read.
    split: of the task.
    limit: first rows only (0: all).
    max_tokens: of a text; what is longer is cut, and counted.
    batch_size: texts per device call.
    mesh: devices.
  """
  if target not in ("text", "response"):
    raise ValueError(
      f"perplexity: target is {target!r}; use 'text' or 'response'"
    )
  devices = mesh_lib.make_mesh(mesh)
  model = pretrained.load(model_dir, "language", devices)
  examples = datasets.ExampleSource(
    examples_file=examples_file,
    task=task,
    split=split,
    data_dir=data_dir,
    limit=limit,
  ).read()
  if target == "response":
    arrays, cut = converters.encode_examples(
      examples, model.tokenizer, model.sequence
    )
  else:
    if not isinstance(model.config, decoder.DecoderConfig):
      raise ValueError(
        "perplexity: an encoder-decoder has none of a text by itself; measure "
        "--target=response"
      )
    arrays, cut = encode_texts(examples, model.tokenizer, max_tokens)

  @jax.jit
  def losses(params, part):
    return -scoring.response_log_probs(model.functions, params, part)

  progress = metrics.Progress("perplexity", len(examples), unit="texts")
  rows = []
  for index, real in converters.chunks(len(examples), batch_size):
    part = converters.take(arrays, index)
    loss = np.asarray(losses(model.params, mesh_lib.put_batch(devices, part)))
    weights = np.asarray(part.weights)
    for i, row in enumerate(index[:real]):
      nll = float(np.sum(np.where(weights[i] > 0, loss[i], 0.0)))
      tokens = int(weights[i].sum())
      rows.append({"id": examples[row].id, "nll": nll, "tokens": tokens})
    progress.update(len(rows))
  jsonl.write_rows(pathlib.Path(output_dir) / "losses.jsonl", rows)
  estimate = statistics.ratio(
    [row["nll"] for row in rows], [row["tokens"] for row in rows]
  )
  return {
    "nats_per_token": dataclasses.asdict(estimate),
    "perplexity": math.exp(estimate.value),
    "tokens": sum(row["tokens"] for row in rows),
    "texts": len(rows),
    **cut,
  }


def encode_texts(
  examples: list[records.Example], tokenizer: Any, max_tokens: int
) -> tuple[batches.TokenBatch, dict[str, int]]:
  """Whole contexts as responses to their first token."""
  begin = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
  ids = [[*begin, *tokenizer.encode_plain(e.context)] for e in examples]
  cut = sum(len(row) > max_tokens for row in ids)
  tokens = np.zeros((len(ids), max_tokens), np.int32)
  valid = np.zeros((len(ids), max_tokens), bool)
  for i, row in enumerate(ids):
    kept = row[:max_tokens]
    tokens[i, : len(kept)] = kept
    valid[i, : len(kept)] = True
  batch = batches.TokenBatch(
    tokens=tokens, valid=valid, weights=valid[:, 1:].astype(np.float32)
  )
  return batch, {"cut_texts": cut}
