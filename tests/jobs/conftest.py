# SPDX-License-Identifier: Apache-2.0
"""A tiny world on disk: vocabulary, examples, a trained-for-a-moment model."""

from __future__ import annotations

import pathlib
import random

import pytest

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.data import converters
from rlaif_jax.engine import loop
from rlaif_jax.engine import optimizer
from rlaif_jax.jobs import train_sft
from rlaif_jax.models import decoder
from rlaif_jax.text import tokenizers

WORDS = "the cat sat on a mat and saw one red hat with ten dogs near it".split()
ADAM = optimizer.OptimizerConfig(name="adamw", learning_rate=1e-2)
SEQUENCE = converters.SequenceConfig(
  max_context=24, max_response=8, suffix="\n"
)
MODEL = decoder.DecoderConfig(
  vocab_size=320,
  width=16,
  num_layers=1,
  num_heads=2,
  num_kv_heads=2,
  head_dim=8,
  mlp_dim=16,
  max_length=160,
)


def train(root: pathlib.Path, **changes):
  """A few steps of SFT on the tiny world; returns the job's summary."""
  settings = dict(
    output_dir=str(root / "sft"),
    data=train_sft.SFTData(
      data_dir=str(root),
      examples_file=str(root / "examples.jsonl"),
      validation_rows=4,
    ),
    sequence=SEQUENCE,
    optimizer=ADAM,
    train=loop.LoopConfig(num_steps=3, save_every=2),
    model=MODEL,
    batch_size=8,
  )
  return train_sft.run(**{**settings, **changes})


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> pathlib.Path:
  root = tmp_path_factory.mktemp("tiny")
  generator = random.Random(0)
  examples = []
  for i in range(24):
    words = generator.choices(WORDS, k=18)
    examples.append(
      records.Example(
        id=f"{i:03d}", context=" ".join(words), response=" ".join(words[:4])
      )
    )
  jsonl.write_records(root / "examples.jsonl", examples)
  tokenizers.train_sentencepiece(
    [e.context for e in examples] * 4 + ["Which line sums up the text 1 2 3"],
    vocab_size=320,
    path=root / "tokenizer.model",
  )
  train(root)
  return root
