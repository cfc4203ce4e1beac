# SPDX-License-Identifier: Apache-2.0
"""Finished models are loaded whole or refused with the reason."""

from __future__ import annotations

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.core import compute as compute_lib
from rlaif_jax.engine import checkpoint
from rlaif_jax.engine import mesh
from rlaif_jax.model_io import pretrained
from tests import testing


def test_a_model_comes_back_with_what_it_reads(world):
  devices = mesh.make_mesh("data:-1", jax.devices()[:1])
  model = pretrained.load(str(world / "sft" / "model"), "language", devices)
  assert model.config.vocab_size == model.tokenizer.vocab_size == 320
  assert model.sequence.max_response == 8
  copied = pretrained.copy_params(model.params)
  assert jax.tree.structure(copied) == jax.tree.structure(model.params)


def test_another_kind_is_refused(world):
  devices = mesh.make_mesh("data:-1", jax.devices()[:1])
  with pytest.raises(ValueError, match="needs a scalar"):
    pretrained.load(str(world / "sft" / "model"), "scalar", devices)


def test_an_unfinished_run_is_refused(tmp_path):
  devices = mesh.make_mesh("data:-1", jax.devices()[:1])
  with pytest.raises(ValueError, match="no finished model"):
    pretrained.load(str(tmp_path), "language", devices)


def test_a_reference_may_have_another_placement_than_the_policy(world):
  devices = mesh.make_mesh("fsdp:2", jax.devices()[:2])
  sft = pretrained.load(str(world / "sft" / "model"), "language", devices)
  same = compute_lib.PlacementConfig()
  assert pretrained.load_reference(sft, devices, same) is sft
  placement = compute_lib.Placement(rules=(("embed", ""),), dtype="bfloat16")
  other = compute_lib.PlacementConfig(reference=placement)
  for directory in ("", sft.directory):
    found = pretrained.load_reference(sft, devices, other, directory)
    for x, y in zip(
      jax.tree.leaves(found.params), jax.tree.leaves(sft.params), strict=True
    ):
      assert x.dtype == jnp.bfloat16 and x.sharding.is_fully_replicated
      np.testing.assert_array_equal(x, y.astype(jnp.bfloat16))


@pytest.mark.parametrize("dtype", ["int8", "nf4"])
def test_a_quantized_model(world, dtype):
  pytest.importorskip("qwix")
  devices = mesh.make_mesh("fsdp:2", jax.devices()[:2])
  placement = compute_lib.Placement(dtype=dtype)
  directory = str(world / "sft" / "model")
  small = pretrained.load(directory, "language", devices, placement)
  codes = small.params["blocks_0"]["mlp"]["gate"]["kernel"]
  assert codes.dtype == jnp.dtype({"int8": "int8", "nf4": "uint4"}[dtype])
  whole = pretrained.load(directory, "language", devices)
  assert small.content_hash != whole.content_hash
  # The policy as its own reference, without a second copy.
  both = compute_lib.PlacementConfig(policy=placement, reference=placement)
  assert pretrained.load_reference(small, devices, both) is small


def test_a_reference_with_other_tokens_is_refused(world):
  devices = mesh.make_mesh("data:-1", jax.devices()[:1])
  policy = pretrained.load(str(world / "sft" / "model"), "language", devices)
  sequence = dataclasses.replace(policy.sequence, suffix="\nTL;DR:\n")
  other = dataclasses.replace(policy, sequence=sequence)
  pretrained.check_same_tokens(policy, policy)
  with pytest.raises(ValueError, match="TL;DR"):
    pretrained.check_same_tokens(other, policy)


def test_compute_sets_how_the_functions_of_a_model_run(world):
  """The gradient's program has a loop of layers and recomputes them."""
  devices = mesh.make_mesh("data:-1", jax.devices()[:1])
  config = testing.tiny_decoder(16)
  texts = {}
  for name, compute in (
    ("plain", compute_lib.ComputeConfig()),
    ("compute", compute_lib.ComputeConfig(remat="full", scan_layers=True)),
  ):
    model = pretrained.language_model(config, devices, compute)
    batch = testing.whole_batch(
      jnp.ones((2, 8), jnp.int32), jnp.ones((2, 8), bool), 4
    )
    loss = lambda params, m=model, b=batch: m.hidden(params, b).sum()
    params = testing.build(model)
    texts[name] = str(jax.make_jaxpr(jax.grad(loss))(params))
  assert "remat" not in texts["plain"] and "scan[" not in texts["plain"]
  assert "remat" in texts["compute"] and "scan[" in texts["compute"]


def changed(model, **fields):
  """The model with other parameters, and other fields."""
  params = jax.tree.map(lambda x: x * 1.5, model.params)
  return dataclasses.replace(model, params=params, **fields)


def test_the_content_names_a_model_and_its_name_does_not(world, tmp_path):
  model = pretrained.load(
    str(world / "sft" / "model"), "language", mesh.make_mesh("data:-1")
  )
  assert model.identity == f"sft@{model.content_hash}" == model.backend().name
  assert checkpoint.identity_of(model.directory) == model.identity
  renamed = dataclasses.replace(model, name="other")
  assert "content_hash" not in vars(renamed), "its own is computed when used"
  assert renamed.content_hash == model.content_hash
  sharded = pretrained.load(
    model.directory, "language", mesh.make_mesh("fsdp:4,model:2")
  )
  again = dataclasses.replace(sharded, name="again")
  assert again.content_hash == model.content_hash
  others = [
    changed(model),
    dataclasses.replace(model, chat=("<", ">")),
    dataclasses.replace(
      model, sequence=dataclasses.replace(model.sequence, max_response=7)
    ),
  ]
  assert len({x.content_hash for x in [model, *others]}) == 4
  others[0].save(str(tmp_path))
  loaded = pretrained.load(str(tmp_path), "language", model.mesh)
  assert loaded.identity == others[0].identity
  path = str(tmp_path / "renamed")
  renamed.save(path)
  assert checkpoint.identity_of(path) == f"other@{model.content_hash}"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_damaged_parameters_are_refused_in_any_dtype(world, tmp_path, dtype):
  devices = mesh.make_mesh("data:-1", jax.devices()[:1])
  model = pretrained.load(str(world / "sft" / "model"), "language", devices)
  placement = compute_lib.Placement(dtype=dtype)
  model.save(str(tmp_path / "a"))
  found = pretrained.load(str(tmp_path / "a"), "language", devices, placement)
  # The values that are in use: rounded ones are another model.
  assert (found.content_hash == model.content_hash) == (dtype == "float32")
  changed(model).save(str(tmp_path / "b"))
  shutil.rmtree(tmp_path / "a" / "params")
  (tmp_path / "b" / "params").rename(tmp_path / "a" / "params")
  with pytest.raises(checkpoint.DamagedError, match="a/params is damaged"):
    pretrained.load(str(tmp_path / "a"), "language", devices, placement)
