# SPDX-License-Identifier: Apache-2.0
"""Embeddings against transformers, at all lengths; damage names the file."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rlaif_jax.model_io import sentence_encoder
from tests import tiny_encoder

TEXTS = [
  "keeps a red zebra",
  "",
  "the cache keeps programs of the compiler in the cache of the compiler",
  "red",
  "unknown words",
  "zebra " * 60,
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("encoder")
  tiny_encoder.write(folder)
  return folder


@pytest.fixture(scope="module")
def encoder(folder):
  return sentence_encoder.load(str(folder))


def test_embeddings_equal_those_of_transformers(folder, encoder):
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  model = transformers.BertModel.from_pretrained(
    folder, attn_implementation="eager"
  ).eval()
  found = encoder.embed(TEXTS)
  for ids, ours in zip(encoder.tokenizer.encode(TEXTS), found, strict=True):
    with torch.no_grad():
      states = model(torch.tensor([ids])).last_hidden_state[0].mean(0).numpy()
    theirs = states / np.linalg.norm(states)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_an_embedding_does_not_depend_on_other_texts(encoder):
  whole = encoder.embed(TEXTS)
  assert whole.shape == (6, 12) and whole.dtype == np.float32
  for text, row in zip(TEXTS, whole, strict=True):
    np.testing.assert_array_equal(encoder.embed([text])[0], row)
  many = encoder.embed(["red"] + [f"red {'a ' * n}" for n in range(35)])
  np.testing.assert_array_equal(many[0], whole[3])
  np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-6)
  assert encoder.embed([]).shape == (0, 12)


def test_texts_are_truncated_to_the_positions(encoder):
  long, longer = encoder.embed(["zebra " * 38, "zebra " * 39])
  np.testing.assert_array_equal(long, longer)
  shorter = encoder.embed(["zebra " * 37])[0]
  assert np.abs(long - shorter).max() > 1e-5


def rewritten(folder, tmp_path, name, change):
  for path in folder.iterdir():
    (tmp_path / path.name).write_bytes(path.read_bytes())
  (tmp_path / name).parent.mkdir(exist_ok=True)
  change(tmp_path / name)
  return str(tmp_path)


@pytest.mark.parametrize(
  "key, value, message",
  [
    ("model_type", "gpt2", "config.json: model_type is 'gpt2'"),
    ("vocab_size", 17, "tokenizer.json has 16 ids"),
    ("hidden_size", 24, "has shape"),
    ("num_hidden_layers", 1, "encoder.layer.1.* is unexpected"),
    ("num_hidden_layers", 3, "encoder.layer.2.* is missing"),
  ],
)
def test_other_configurations_are_refused(
  folder, tmp_path, key, value, message
):
  text = json.dumps({**tiny_encoder.CONFIG, key: value})
  path = rewritten(
    folder, tmp_path, "config.json", lambda p: p.write_text(text)
  )
  with pytest.raises(ValueError, match=message):
    sentence_encoder.load(path)


def test_other_pooling_is_refused(folder, tmp_path):
  def pool(modes):
    return rewritten(
      folder,
      tmp_path,
      "1_Pooling/config.json",
      lambda p: p.write_text(json.dumps(modes)),
    )

  modes = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
  sentence_encoder.load(pool(modes))
  with pytest.raises(ValueError, match="1_Pooling/config.json: the pooling"):
    sentence_encoder.load(pool({"pooling_mode_cls_token": True}))


def test_truncated_weights_are_named(folder, tmp_path):
  path = rewritten(
    folder,
    tmp_path,
    "model.safetensors",
    lambda p: p.write_bytes(p.read_bytes()[:-100]),
  )
  with pytest.raises(ValueError, match="model.safetensors"):
    sentence_encoder.load(path)


def test_a_missing_directory_is_named(tmp_path):
  with pytest.raises(ValueError, match="nowhere.*encoder_dir"):
    sentence_encoder.load(str(tmp_path / "nowhere"))
