# SPDX-License-Identifier: Apache-2.0
"""Perplexity of a language model on texts, or on responses to prompts.

In nats per token; comparable between models with one vocabulary only.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
from typing import Literal, Sequence

import jax
import numpy as np

from rlaif_jax.core import batches
from rlaif_jax.core import compute as compute_lib
from rlaif_jax.core import jsonl
from rlaif_jax.core import protocols
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
  examples: datasets.ExampleSource,
  target: Literal["text", "response"] = "text",
  max_tokens: int = 256,
  batch_size: int = 16,
  mesh: str = "data:-1",
  placement: compute_lib.Placement = compute_lib.PLAIN,
) -> records.Row:
  """Writes losses.jsonl, a row per text, and returns the perplexity of all.

  Args:
    output_dir: directory that receives losses.jsonl.
    model_dir: directory of a finished language model.
    examples: file or task with the texts.
    target: "text" measures the contexts, each token given those before it;
      "response" the human-written responses given their prompts, including the
      end token.
    max_tokens: tokens per text; longer texts are truncated, and counted.
    batch_size: texts per device call.
    mesh: sizes of the mesh axes, such as "data:-1".
    placement: sharding and dtype of the parameters. The losses of one dtype
      less those of another are its error.
  """
  if target not in ("text", "response"):
    raise ValueError(
      f"perplexity.target is {target!r}; use one of ('text', 'response')"
    )
  devices = mesh_lib.make_mesh(mesh)
  model = pretrained.load(model_dir, "language", devices, placement)
  rows = examples.read()
  if target == "response":
    arrays, cut = converters.encode_examples(
      rows, model.tokenizer, model.sequence
    )
  else:
    if not isinstance(model.config, decoder.DecoderConfig):
      raise ValueError(
        "perplexity.target is 'text', which an encoder-decoder does not "
        "predict; set --target=response"
      )
    arrays, cut = encode_texts(rows, model.tokenizer, max_tokens)

  @jax.jit
  def losses(params, part):
    return -scoring.response_log_probs(model.functions, params, part)

  progress = metrics.Progress("perplexity", len(rows), unit="texts")
  results = []
  for index, real in converters.chunks(len(rows), batch_size):
    part = converters.take(arrays, index)
    loss = np.asarray(losses(model.params, mesh_lib.put_batch(devices, part)))
    weights = np.asarray(part.weights)
    for i, row in enumerate(index[:real]):
      nll = float(np.sum(np.where(weights[i] > 0, loss[i], 0.0)))
      tokens = int(weights[i].sum())
      results.append({"id": rows[row].id, "nll": nll, "tokens": tokens})
    progress.update(len(results))
  jsonl.write_rows(pathlib.Path(output_dir) / "losses.jsonl", results)
  estimate = statistics.ratio(
    [row["nll"] for row in results], [row["tokens"] for row in results]
  )
  return {
    "nats_per_token": dataclasses.asdict(estimate),
    "perplexity": math.exp(estimate.value),
    "tokens": sum(row["tokens"] for row in results),
    "texts": len(results),
    **cut,
  }


def encode_texts(
  examples: Sequence[records.Example],
  tokenizer: protocols.Tokenizer,
  max_tokens: int,
) -> tuple[batches.TokenBatch, dict[str, int]]:
  """Encodes contexts as responses to their first token.

  Returns:
    A batch [n, max_tokens], and the number of truncated texts.
  """
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
