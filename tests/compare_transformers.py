# SPDX-License-Identifier: Apache-2.0
"""A finished model beside transformers on the same weights; no test itself.

    python -m tests.compare_transformers MODEL_DIR EXPORT_DIR DATA_DIR [ROWS]

EXPORT_DIR is what `--job=convert --format=hf` wrote from MODEL_DIR, so both
read the same numbers. Prints the largest difference of logits, the share of
equal best tokens, and both perplexities on documents of the test split.
"""

from __future__ import annotations

import json
import math
import sys

import jax
import numpy as np

from rlaif_jax.data import converters
from rlaif_jax.data import datasets
from rlaif_jax.engine import mesh
from rlaif_jax.engine import scoring
from rlaif_jax.model_io import pretrained
from rlaif_jax.jobs import measure_perplexity

MAX_TOKENS = 128


def main(model_dir: str, export_dir: str, data_dir: str, rows: int) -> None:
  """Prints one JSON object."""
  import torch
  import transformers

  model = pretrained.load(
    model_dir, "language", mesh.make_mesh("data:1", jax.devices()[:1])
  )
  examples = datasets.ExampleSource(
    task="docstring_summary",
    split="test",
    data_dir=data_dir,
    limit=rows,
  ).read()
  batch, _ = measure_perplexity.encode_texts(
    examples, model.tokenizer, MAX_TOKENS
  )
  reader = jax.jit(
    lambda p, part: scoring.response_logits(model.functions, p, part)
  )
  theirs = transformers.AutoModelForCausalLM.from_pretrained(
    export_dir, dtype=torch.float32, attn_implementation="eager"
  ).eval()
  worst, same, count, losses = 0.0, 0, 0, [0.0, 0.0]
  for i in range(rows):
    part = converters.take(batch, np.array([i]))
    real = np.asarray(part.weights[0]) > 0
    a = np.asarray(reader(model.params, part))[0][real]
    length = int(part.valid.sum())
    ids = torch.tensor(np.asarray(part.tokens)[:, :length].astype(np.int64))
    with torch.no_grad():
      b = theirs(ids).logits[0, :-1].numpy()
    worst = max(worst, float(np.abs(a - b).max()))
    same += int((a.argmax(-1) == b.argmax(-1)).sum())
    targets = ids[0, 1:].numpy()
    for j, logits in enumerate((a, b)):
      logits = logits.astype(np.float64)
      high = logits.max(-1)
      total = high + np.log(np.exp(logits - high[:, None]).sum(-1))
      losses[j] += float(
        (total - logits[np.arange(len(targets)), targets]).sum()
      )
    count += len(targets)
  print(
    json.dumps(
      {
        "model": model.name,
        "texts": rows,
        "tokens": count,
        "largest_logit_difference": worst,
        "same_best_token": same / count,
        "perplexity": math.exp(losses[0] / count),
        "perplexity_transformers": math.exp(losses[1] / count),
      },
      indent=2,
    )
  )


if __name__ == "__main__":
  main(*sys.argv[1:4], int((sys.argv[4:] or ["32"])[0]))
