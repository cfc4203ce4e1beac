# SPDX-License-Identifier: Apache-2.0
"""Mesh strings, logical rules, and batches that do not divide."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from rlaif_jax.engine import mesh
from rlaif_jax.models import decoder
from tests import testing


def test_minus_one_takes_the_rest():
  built = mesh.make_mesh("data:-1,model:2", jax.devices()[:8])
  assert dict(built.shape) == {"data": 4, "fsdp": 1, "model": 2}


@pytest.mark.parametrize(
  "text", ["data:3", "rows:8", "data", "data:-1,model:-1", "data:-1,model:3"]
)
def test_bad_meshes_are_errors(text):
  with pytest.raises(ValueError, match="mesh is"):
    mesh.make_mesh(text, jax.devices()[:8])


def test_parameters_are_split_by_their_axis_names():
  functions = decoder.functions(testing.tiny_decoder(16))
  built = mesh.make_mesh("data:2,model:2", jax.devices()[:4])
  boxed = jax.eval_shape(functions.init, jax.random.key(0))
  shardings = mesh.param_shardings(built, boxed)
  table = shardings["embedding"]["table"]
  assert table.spec == jax.sharding.PartitionSpec("model", "fsdp")
  gate = shardings["blocks_0"]["mlp"]["gate"]["kernel"]
  assert gate.spec == jax.sharding.PartitionSpec("fsdp", "model")


def test_a_batch_that_does_not_divide_is_an_error():
  built = mesh.make_mesh("data:8", jax.devices()[:8])
  with pytest.raises(ValueError, match="does not divide"):
    mesh.put_batch(built, np.zeros((6, 2)))
