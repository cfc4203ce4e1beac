# SPDX-License-Identifier: Apache-2.0
"""One function opens every kind of model, and says what it cannot open."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from rlaif_jax.api import loading
from rlaif_jax.model_io import conversion


def test_a_run_and_its_model_are_the_same(world):
  run, model = loading.load(world / "sft"), loading.load(world / "sft/model")
  assert run.kind == "language" and run.mesh.devices.size == 1
  jax.tree.map(np.testing.assert_array_equal, run.params, model.params)


def test_the_mesh_is_a_text_or_a_mesh(world):
  model = loading.load(world / "sft", mesh="data:2,model:4")
  assert dict(model.mesh.shape)["model"] == 4
  again = loading.load(world / "sft", mesh=model.mesh)
  assert again.mesh == model.mesh


def test_a_hugging_face_directory(world, tmp_path):
  model = loading.load(world / "sft")
  conversion.export(model, str(tmp_path / "hf"), "hf")
  found = loading.load(tmp_path / "hf", sequence=model.sequence)
  assert found.sequence.max_context == model.sequence.max_context
  jax.tree.map(np.testing.assert_array_equal, found.params, model.params)


def test_bad_requests_are_named(world, tmp_path):
  with pytest.raises(ValueError, match="takes none of .'dtype'."):
    loading.load(world / "sft", dtype="bfloat16")
  with pytest.raises((ValueError, OSError)):
    loading.load(tmp_path / "nothing")


def test_generated_texts_depend_on_key_and_row_alone(world):
  model = loading.load(world / "sft")
  prompts = model.encode(["the cat sat", "one red hat"])
  key = jax.random.key(3)
  samples = model.generate(prompts, key, num_samples=3, temperature=1.0)
  assert samples.response.shape == (2, 3, model.sequence.max_response)
  second = jax.tree.map(lambda x: x[1:], prompts)
  alone = model.generate(second, key, num_samples=3, temperature=1.0)
  np.testing.assert_array_equal(samples.response[1:], alone.response)
  texts = model.decode(samples)
  assert [len(row) for row in texts] == [3, 3]
  assert all(isinstance(text, str) for row in texts for text in row)


def test_a_context_that_is_too_long_is_an_error(world):
  model = loading.load(world / "sft")
  text = "cat " * 200
  with pytest.raises(ValueError, match="1 of 2 contexts have more than 24"):
    model.encode(["cat", text])
  prompts = model.encode(["cat", text], truncate=True)
  assert prompts.context_valid.sum(axis=1)[1] == 24
