# SPDX-License-Identifier: Apache-2.0
"""Mesh strings, logical rules, and batches that do not divide."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.core import compute as compute_lib
from rlaif_jax.engine import mesh
from rlaif_jax.models import decoder
from tests import testing


def test_minus_one_takes_the_rest():
  built = mesh.make_mesh("data:-1,model:2", jax.devices()[:8])
  assert dict(built.shape) == {
    "data": 4,
    "fsdp": 1,
    "sequence": 1,
    "model": 2,
  }


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


def test_a_placement_has_its_own_rules_and_type():
  functions = decoder.functions(testing.tiny_decoder(16))
  built = mesh.make_mesh("fsdp:2,model:2", jax.devices()[:4])
  placement = compute_lib.Placement(rules=(("embed", ""),), dtype="bfloat16")
  whole = mesh.abstract_params(functions.init, built)["embedding"]["table"]
  other = mesh.abstract_params(functions.init, built, placement)
  table = other["embedding"]["table"]
  assert whole.sharding.spec == jax.sharding.PartitionSpec("model", "fsdp")
  assert table.sharding.spec == jax.sharding.PartitionSpec("model", None)
  assert (whole.dtype, table.dtype) == (jnp.float32, jnp.bfloat16)


def test_a_resharded_copy_has_the_same_values():
  functions = decoder.functions(testing.tiny_decoder(16))
  built = mesh.make_mesh("fsdp:2,model:2", jax.devices()[:4])
  split = jax.tree.map(
    lambda x, to: jax.device_put(x, to.sharding),
    testing.build(functions),
    mesh.abstract_params(functions.init, built),
  )
  placement = compute_lib.Placement(rules=(("embed", ""),), dtype="bfloat16")
  moved = mesh.make_reshard(functions.init, built, placement)(split)
  like = mesh.abstract_params(functions.init, built, placement)
  for x, to, was in zip(
    *map(jax.tree.leaves, (moved, like, split)), strict=True
  ):
    assert (x.sharding, x.dtype) == (to.sharding, jnp.bfloat16)
    np.testing.assert_array_equal(x, np.asarray(was).astype(jnp.bfloat16))


def test_the_rows_that_this_process_holds():
  built = mesh.make_mesh("data:2,sequence:2,model:2", jax.devices()[:8])
  assert mesh.addressable_rows(built, 6).all()  # It has all devices.


def test_a_batch_that_does_not_divide_is_an_error():
  built = mesh.make_mesh("data:8", jax.devices()[:8])
  with pytest.raises(ValueError, match="does not divide"):
    mesh.put_batch(built, np.zeros((6, 2)))
