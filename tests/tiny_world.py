# SPDX-License-Identifier: Apache-2.0
"""A tiny world on disk: vocabulary, examples, labels and short trainings.

The `world` fixture has examples.jsonl, tokenizer.model and sft/model, which was
trained for three updates.
"""

from __future__ import annotations

import dataclasses
import pathlib
import random
from typing import Callable

import jax
import numpy as np
import pytest

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.data import converters
from rlaif_jax.data import datasets
from rlaif_jax.data import preferences
from rlaif_jax.engine import loop
from rlaif_jax.engine import mesh
from rlaif_jax.engine import optimizer
from rlaif_jax.jobs import train_reward
from rlaif_jax.jobs import train_sft
from rlaif_jax.model_io import pretrained
from rlaif_jax.models import decoder
from rlaif_jax.models import t5
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
T5 = t5.T5Config(
  vocab_size=320,
  width=16,
  num_layers=1,
  num_decoder_layers=1,
  num_heads=2,
  head_dim=8,
  mlp_dim=16,
  max_length=200,
)
# A response that the gold reward prefers to "x".
GOOD = "the cat sat on a red hat with ten dogs near it all day"
# The shape of the embedding table, by which tests count copies of a model.
TABLE = (MODEL.vocab_size, MODEL.width)


def sft_data(root: pathlib.Path, **changes) -> datasets.SFTData:
  """The examples of a world."""
  settings = dict(
    data_dir=str(root),
    examples_file=str(root / "examples.jsonl"),
    validation_rows=4,
    sequence=SEQUENCE,
  )
  return datasets.SFTData(**{**settings, **changes})


def train_config(**changes) -> loop.TrainConfig:
  return loop.TrainConfig(**{"batch_size": 8, **changes})


def sft(root: pathlib.Path, **changes):
  """A few steps of SFT; returns the job's summary."""
  settings = dict(
    output_dir=str(root / "sft"),
    data=sft_data(root),
    model=MODEL,
    optimizer=ADAM,
    train=train_config(num_steps=3, save_every=2),
  )
  return train_sft.run(**{**settings, **changes})


def labels(
  path: pathlib.Path,
  n: int,
  seed: int,
  *,
  bad: str = "ten dogs saw",
  context: Callable[[np.random.Generator], str] = lambda _: (
    "the mat and the hat"
  ),
) -> str:
  """Writes pairs in which the text with "cat" is better; returns the path."""
  generator = np.random.default_rng(seed)
  rows = []
  for i in range(n):
    good = "a cat sat"
    swap = bool(generator.integers(2))
    rows.append(
      records.Preference(
        id=str(i),
        context=context(generator),
        first=bad if swap else good,
        second=good if swap else bad,
        p_first=0.1 if swap else 0.9,
        labeler="test",
      )
    )
  jsonl.write_records(path, rows)
  return str(path)


def labels_config(
  directory: pathlib.Path, n: int = 64, **changes
) -> preferences.LabelsConfig:
  """n training labels and 32 test labels in a directory."""
  settings = dict(
    labels_file=labels(directory / "train.jsonl", n, 0),
    test_labels_file=labels(directory / "test.jsonl", 32, 1),
  )
  return preferences.LabelsConfig(**{**settings, **changes})


def reward(world: pathlib.Path, directory: pathlib.Path, **changes):
  """Trains a reward model; returns the job's summary."""
  settings = dict(
    output_dir=str(directory / "out"),
    labels=labels_config(directory),
    init_from=str(world / "sft" / "model"),
    optimizer=ADAM,
    train=train_config(epochs=4.0),
  )
  return train_reward.run(**{**settings, **changes})


def write_corpus(examples: pathlib.Path, tokenizer: pathlib.Path) -> None:
  """Writes 24 examples and a tokenizer of their words."""
  generator = random.Random(0)
  rows = []
  for i in range(24):
    words = generator.choices(WORDS, k=18)
    rows.append(
      records.Example(
        id=f"{i:03d}", context=" ".join(words), response=" ".join(words[:4])
      )
    )
  jsonl.write_records(examples, rows)
  tokenizers.train_sentencepiece(
    [row.context for row in rows] * 4 + ["Which line sums up the text 1 2 3"],
    vocab_size=320,
    path=tokenizer,
  )


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> pathlib.Path:
  root = tmp_path_factory.mktemp("tiny")
  write_corpus(root / "examples.jsonl", root / "tokenizer.model")
  sft(root)
  return root


@pytest.fixture(scope="session")
def namesake(world, tmp_path_factory) -> pathlib.Path:
  """Another model that is called "sft" too."""
  model = pretrained.load(
    str(world / "sft" / "model"), "language", mesh.make_mesh("data:-1")
  )
  params = jax.tree.map(lambda x: x * 1.5, model.params)
  directory = tmp_path_factory.mktemp("namesake") / "model"
  dataclasses.replace(model, params=params).save(str(directory))
  return directory


@pytest.fixture
def pairs_file(tmp_path) -> str:
  """Twelve pairs; the better response is second and first in turns."""
  pairs = []
  for i in range(12):
    texts = (GOOD, "x") if i % 2 else ("x", GOOD)
    pairs.append(
      records.Pair(
        id=f"p{i}",
        context=f"{GOOD} and {i} mats more",
        first=texts[0],
        second=texts[1],
      )
    )
  jsonl.write_records(tmp_path / "pairs.jsonl", pairs)
  return str(tmp_path / "pairs.jsonl")
