# SPDX-License-Identifier: Apache-2.0
"""A user's SeqIO task as examples; imports TensorFlow."""

from __future__ import annotations

import functools

import pytest

from rlaif_jax.data import datasets
from rlaif_jax.data import registered_tasks

seqio = pytest.importorskip("seqio")

PAIRS = [("a cat", "cat"), ("a mat", "mat"), ("a hat", "hat")]


def rows(split, shuffle_files=False, seed=None, *, lines):
  del split, shuffle_files, seed
  import tensorflow as tf

  inputs, targets = map(list, zip(*lines, strict=True))
  return tf.data.Dataset.from_tensor_slices(
    {"inputs": inputs, "targets": targets}
  )


def add(name, steps, lines=PAIRS):
  feature = seqio.Feature(seqio.ByteVocabulary(), add_eos=True)
  seqio.TaskRegistry.add(
    name,
    source=seqio.FunctionDataSource(
      functools.partial(rows, lines=lines), splits=("train",)
    ),
    preprocessors=steps,
    output_features={"inputs": feature, "targets": feature},
  )


@pytest.fixture(scope="module")
def names():
  tokenize = seqio.preprocessors.tokenize
  bare = functools.partial(tokenize, copy_pretokenized=False)
  eos = seqio.preprocessors.append_eos
  add("own_texts", [tokenize, eos])
  add("own_ids", [bare, eos], [("b cat", "bat"), ("é", "x y")])
  seqio.MixtureRegistry.add("own_mix", ["own_texts", "own_ids"], 1.0)
  yield
  seqio.MixtureRegistry.remove("own_mix")
  for name in ("own_texts", "own_ids"):
    seqio.TaskRegistry.remove(name)


def texts(examples):
  return [(e.context, e.response) for e in examples]


def test_a_registered_task_is_a_source_of_every_job(names):
  source = datasets.ExampleSource(task="own_texts", split="train")
  assert texts(source.read()) == PAIRS
  assert (
    texts(datasets.ExampleSource(task="own_texts", limit=2).read())
    == (PAIRS[:2])
  )
  examples = source.read()
  assert len({e.id for e in examples}) == 3 and examples == source.read()


def test_ids_are_decoded_and_mixtures_are_sampled_in_one_order(names):
  found = registered_tasks.load_examples("own_ids", "train")
  assert texts(found) == [("b cat", "bat"), ("é", "x y")]
  mixed = texts(registered_tasks.load_examples("own_mix", "train"))
  assert mixed == texts(registered_tasks.load_examples("own_mix", "train"))
  assert {("b cat", "bat"), PAIRS[0]} <= set(mixed)


def test_errors(names):
  with pytest.raises(ValueError, match="no split 'rl'; it has .'train'"):
    datasets.PromptData(task="own_texts").read()
  assert not registered_tasks.has("own_nothing")
