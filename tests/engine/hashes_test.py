# SPDX-License-Identifier: Apache-2.0
"""Hashes of parameters on any mesh, of shards, and what they count."""

from __future__ import annotations

import hashlib

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from rlaif_jax.engine import hashes
from rlaif_jax.engine import mesh as mesh_lib

VALUES = {
  "a": {"w": np.arange(96, dtype=np.float32).reshape(8, 12) / 7},
  "b": np.ones(4, np.float32),
  "c": np.asarray(2.5, np.float32),
}


def placed(text="data:-1", spec=(), values=VALUES):
  mesh = mesh_lib.make_mesh(text)

  def put(x):
    axes = spec if x.ndim == 2 else ()
    sharding = jax.sharding.NamedSharding(
      mesh, jax.sharding.PartitionSpec(*axes)
    )
    return jax.device_put(x, sharding)

  return jax.tree.map(put, values)


def float32_hash(tree):
  return hashes.scan(tree, ["float32"]).hashes["float32"]


def test_the_hash_is_that_of_its_definition():
  total = hashlib.sha256()
  for name, value in (
    ("a/w", VALUES["a"]["w"]),
    ("b", VALUES["b"]),
    ("c", VALUES["c"]),
  ):
    digest = hashlib.sha256(value.tobytes()).hexdigest()
    total.update(f"{name} {value.shape} {digest}\n".encode())
  assert float32_hash(placed()) == total.hexdigest()[:32]


@pytest.mark.parametrize(
  "mesh, spec",
  [
    ("fsdp:8", ("fsdp",)),
    ("data:2,model:4", (None, "model")),
    ("fsdp:4,model:2", ("fsdp", "model")),
  ],
)
def test_every_mesh_and_piece_size_gives_one_hash(mesh, spec, monkeypatch):
  expected = float32_hash(placed())
  assert float32_hash(placed(mesh, spec)) == expected
  monkeypatch.setattr(hashes, "_PIECE", 3 * 12 * 4)  # Of 3, 3 and 2 rows.
  assert float32_hash(placed(mesh, spec)) == expected
  assert float32_hash(placed()) == expected
  assert float32_hash(VALUES) == expected


@pytest.mark.parametrize("change", ["value", "name", "shape"])
def test_any_change_gives_another_hash(change):
  values = jax.tree.map(np.copy, VALUES)
  if change == "value":
    values["b"][3] = np.nextafter(values["b"][3], 2)
  elif change == "name":
    values["d"] = values.pop("c")
  else:
    values["a"]["w"] = values["a"]["w"].reshape(12, 8)
  assert float32_hash(values) != float32_hash(VALUES)


def test_bfloat16_is_the_hash_of_the_rounded_values():
  both = hashes.scan(placed(), ["float32", "bfloat16"]).hashes
  half = jax.tree.map(lambda x: x.astype(ml_dtypes.bfloat16), VALUES)
  on_device = jax.tree.map(lambda x: x.astype(jnp.bfloat16), placed())
  for tree in (half, on_device):
    found = hashes.scan(tree, ["float32", "bfloat16"]).hashes
    assert found["bfloat16"] == both["bfloat16"]
    assert found["float32"] != both["float32"]


def test_non_finite_values_are_counted_by_name():
  values = jax.tree.map(np.copy, VALUES)
  values["a"]["w"][1, 2:5] = np.nan
  values["c"] = np.asarray(-np.inf, np.float32)
  for tree in (values, placed("fsdp:8", ("fsdp",), values)):
    assert hashes.scan(tree, ["float32"]).non_finite == {"a/w": 3, "c": 1}
  assert not hashes.scan(VALUES, ["float32"]).non_finite


def test_shards_have_a_hash_each():
  tree = placed("fsdp:4,model:2", ("fsdp", "model"))
  found = hashes.shard_hashes(tree)
  assert found["a/w"]["shape"] == [8, 12]
  assert found["a/w"]["dtype"] == "float32"
  assert len(found["a/w"]["shards"]) == 8
  assert set(found["b"]["shards"]) == {"0:4"} and set(found["c"]["shards"]) == {
    ""
  }
  part = np.ascontiguousarray(VALUES["a"]["w"][2:4, 6:12])
  assert (
    found["a/w"]["shards"]["2:4,6:12"]
    == hashlib.sha256(part.tobytes()).hexdigest()[:32]
  )


@pytest.mark.parametrize(
  "mesh, spec",
  [("fsdp:8", ("fsdp",)), ("data:2,model:4", (None, "model")), ("data:8", ())],
)
def test_changed_leaves_are_named_on_the_same_and_on_another_mesh(mesh, spec):
  expected = hashes.shard_hashes(placed("fsdp:8", ("fsdp",)))
  assert hashes.changed_leaves(placed(mesh, spec), expected) == []
  values = jax.tree.map(np.copy, VALUES)
  values["a"]["w"][7, 11] += 1
  values["c"] += 1
  tree = placed(mesh, spec, values)
  assert hashes.changed_leaves(tree, expected) == ["a/w", "c"]
