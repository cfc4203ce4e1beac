# SPDX-License-Identifier: Apache-2.0
"""Finished models, half-written ones, and shapes that do not fit."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
import pytest

import rlaif_jax
from rlaif_jax.engine import hashes
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
  assert hashes.shard_hashes(loaded) == hashes.shard_hashes(PARAMS)
  description = checkpoint.read_description(tmp_path / "model")
  assert description["kind"] == "x"
  assert set(description["hash"]) == {"content", "float32", "bfloat16"}
  assert (tmp_path / "model" / "tokenizer.model").read_text() == "v"


def test_orbax_alone_tells_what_a_model_is(tmp_path):
  checkpoint.save_model(tmp_path / "model", PARAMS, {"config": {"width": 16}})
  found = ocp.StandardCheckpointer().metadata(tmp_path / "model" / "params")
  assert found.custom_metadata == {
    "format": "rlaif_jax model",
    "format_version": checkpoint.FORMAT_VERSION,
    "library_version": rlaif_jax.__version__,
    "model": {
      "config": {"width": 16},
      "hash": checkpoint.read_description(tmp_path / "model")["hash"],
    },
  }


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


def saved(folder, params=PARAMS, **description):
  checkpoint.save_model(folder, params, {"kind": "x", **description})
  return folder


def test_a_model_that_cannot_be_written_leaves_the_old_one(
  tmp_path, monkeypatch
):
  checkpoint.save_model(tmp_path / "model", PARAMS, {"kind": "x"})

  def full(*_):
    raise OSError("disk is full")

  with monkeypatch.context() as patch:
    patch.setattr(checkpoint.jsonl, "write_text", full)
    with pytest.raises(OSError, match="disk is full"):
      checkpoint.save_model(tmp_path / "model", {"b": jnp.ones(1)}, {})
  loaded = checkpoint.load_params(tmp_path / "model", like(PARAMS))
  assert hashes.shard_hashes(loaded) == hashes.shard_hashes(PARAMS)
  assert checkpoint.read_description(tmp_path / "model")["kind"] == "x"
  checkpoint.save_model(tmp_path / "model", {"b": jnp.ones(1)}, {"kind": "y"})
  assert checkpoint.read_description(tmp_path / "model")["kind"] == "y"
  assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_folder_that_is_no_model_is_not_replaced(tmp_path):
  (tmp_path / "notes.txt").write_text("mine")
  with pytest.raises(ValueError, match="no job has written there"):
    checkpoint.save_model(tmp_path, PARAMS, {"kind": "x"})
  assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_the_content_hash_is_of_parameters_and_description(tmp_path):
  def content(params=PARAMS, **description):
    folder = saved(tmp_path / "model", params, **description)
    return checkpoint.read_description(folder)["hash"]["content"]

  first = content()
  assert first == content() == content(name="any") and len(first) == 16
  others = [content(size=2), content(jax.tree.map(lambda x: x + 1, PARAMS))]
  assert len({first, *others}) == 3


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_other_values_than_those_saved_are_refused(tmp_path, dtype):
  wanted = like(jax.tree.map(lambda x: x.astype(dtype), PARAMS))
  folder = saved(tmp_path / "model")
  for leaf in jax.tree.leaves(checkpoint.load_params(folder, wanted)):
    assert leaf.dtype == dtype
  other = saved(tmp_path / "other", jax.tree.map(lambda x: x + 1, PARAMS))
  (folder / "params").rename(tmp_path / "old")
  (other / "params").rename(folder / "params")
  with pytest.raises(checkpoint.DamagedError, match="model/params is damaged"):
    checkpoint.load_params(folder, wanted)


def test_files_that_cannot_be_read_name_the_folder(tmp_path):
  folder = saved(tmp_path / "model")
  (folder / "params" / "_METADATA").write_bytes(b"{")
  with pytest.raises(checkpoint.DamagedError, match="model/params is damaged"):
    checkpoint.load_params(folder, like(PARAMS))


def test_a_changed_description_is_refused(tmp_path):
  path = saved(tmp_path / "model", size=2) / "model.json"
  path.write_text(path.read_text().replace('"size": 2', '"size": 3'))
  with pytest.raises(checkpoint.DamagedError, match="model.json is damaged"):
    checkpoint.read_description(tmp_path / "model")


@pytest.mark.parametrize(
  "old, new",
  [
    ("", "{"),
    ('"content"', '"contents"'),
    ('"bfloat16"', '"bfloat61"'),
    ('"hash": {', '"hash": [{}], "old": {'),
    ('"hash": {', '"hash": null, "old": {'),
    (
      "{",
      '[{"a":',
    ),
  ],
)
def test_a_description_that_is_no_description_is_refused(tmp_path, old, new):
  path = saved(tmp_path / "model") / "model.json"
  path.write_text(path.read_text().replace(old, new, 1))
  with pytest.raises(checkpoint.DamagedError, match="model.json is damaged"):
    checkpoint.read_description(tmp_path / "model")


def test_a_model_without_hashes_loads_with_a_line(tmp_path, caplog):
  path = saved(tmp_path / "model") / "model.json"
  path.write_text(json.dumps({"kind": "x"}))
  checkpoint.load_params(tmp_path / "model", like(PARAMS))
  assert "has no hashes" in caplog.text and "--job=convert" in caplog.text


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf])
def test_non_finite_parameters_are_neither_saved_nor_loaded(
  tmp_path, monkeypatch, value
):
  bad = {**PARAMS, "a": {"w": PARAMS["a"]["w"].at[1, 1:].set(value)}}
  folder = saved(tmp_path / "model")
  with pytest.raises(ValueError, match="model: parameter a/w has 2 values"):
    saved(folder, bad)
  # The earlier model stays.
  checkpoint.load_params(folder, like(PARAMS))
  with monkeypatch.context() as patched:
    patched.setattr(checkpoint, "_check_finite", lambda *_: None)
    saved(folder, bad)
  with pytest.raises(ValueError, match="model: parameter a/w has 2 values"):
    checkpoint.load_params(folder, like(PARAMS))


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
