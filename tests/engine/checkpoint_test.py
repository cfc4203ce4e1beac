# SPDX-License-Identifier: Apache-2.0
"""Finished models, half-written ones, and shapes that do not fit."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.engine import checkpoint

PARAMS = {"a": {"w": jnp.arange(6.0).reshape(2, 3)}, "b": jnp.ones(4)}


def like(tree):
  sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
  )


def test_round_trip_with_files(tmp_path):
  checkpoint.save_model(
    tmp_path / "model",
    PARAMS,
    {"kind": "x"},
    files={"tokenizer.model": b"v"},
  )
  loaded = checkpoint.load_params(tmp_path / "model", like(PARAMS))
  assert checkpoint.tree_hash(loaded) == checkpoint.tree_hash(PARAMS)
  assert checkpoint.read_description(tmp_path / "model") == {"kind": "x"}
  assert (tmp_path / "model" / "tokenizer.model").read_text() == "v"


def test_an_incomplete_model_is_refused(tmp_path):
  checkpoint.save_model(tmp_path / "model", PARAMS, {"kind": "x"})
  (tmp_path / "model" / "model.json").unlink()
  with pytest.raises(ValueError, match="no finished model"):
    checkpoint.read_description(tmp_path / "model")


def test_shapes_that_do_not_fit_name_the_parameter(tmp_path):
  checkpoint.save_model(tmp_path / "model", PARAMS, {})
  other = {"a": {"w": jnp.zeros((5, 3))}, "b": jnp.ones(4)}
  with pytest.raises(ValueError, match=r"a/w is \(2, 3\).*\(5, 3\)"):
    checkpoint.load_params(tmp_path / "model", like(other))


def test_a_run_restores_its_newest_checkpoint(tmp_path):
  run = checkpoint.RunCheckpoints(tmp_path, keep=2)
  for step in (1, 2, 3):
    run.save(step, jax.tree.map(lambda x, s=step: x * s, PARAMS))
  run.save(3, PARAMS)  # Already there: left as it is.
  assert run.steps() == [2, 3]
  newest = run.restore(PARAMS)
  np.testing.assert_array_equal(newest["b"], 3 * PARAMS["b"])
  older = run.restore(PARAMS, 2)
  np.testing.assert_array_equal(older["b"], 2 * PARAMS["b"])
  run.close()


def test_without_a_checkpoint_the_state_is_returned(tmp_path):
  assert checkpoint.RunCheckpoints(tmp_path).restore(PARAMS) is PARAMS


def test_too_many_layers_are_refused_before_a_model_is_built(tmp_path):
  checkpoint.save_model(tmp_path / "model", PARAMS, {})
  checkpoint.check_layers(tmp_path / "model", 2)
  with pytest.raises(ValueError, match="3 layers, and there are 2 arrays"):
    checkpoint.check_layers(tmp_path / "model", 3)


def test_damaged_arrays_name_the_model(tmp_path):
  checkpoint.save_model(tmp_path / "model", PARAMS, {})
  (tmp_path / "model" / "params" / "_METADATA").write_text("{")
  with pytest.raises(ValueError, match=str(tmp_path / "model")):
    checkpoint.load_params(tmp_path / "model", like(PARAMS))
