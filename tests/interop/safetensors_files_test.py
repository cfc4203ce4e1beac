# SPDX-License-Identifier: Apache-2.0
"""Shards are written and read; what is broken or leaves the folder is named."""

from __future__ import annotations

import json
import pickle
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from rlaif_jax.interop import safetensors_files

TENSORS = {
  "a": np.arange(6, dtype=np.float32).reshape(2, 3),
  "b": np.arange(4).astype(ml_dtypes.bfloat16),
  "c": np.ones((5, 1), np.float16),
}


def test_types_and_values_come_back(tmp_path):
  safetensors_files.write(tmp_path, TENSORS.items())
  source = safetensors_files.SafetensorsSource(tmp_path)
  assert source.shapes() == {"a": (2, 3), "b": (4,), "c": (5, 1)}
  for name, array in TENSORS.items():
    assert source.read(name).dtype == array.dtype
    np.testing.assert_array_equal(source.read(name), array)


def test_shards_have_an_index(tmp_path):
  safetensors_files.write(tmp_path, TENSORS.items(), shard_bytes=17)
  files = sorted(p.name for p in tmp_path.glob("*.safetensors"))
  assert files == [f"model-{n:05d}-of-00003.safetensors" for n in (1, 2, 3)]
  index = json.loads((tmp_path / safetensors_files.INDEX).read_text())
  assert index["metadata"]["total_size"] == 24 + 8 + 10
  source = safetensors_files.SafetensorsSource(tmp_path)
  np.testing.assert_array_equal(source.read("c"), TENSORS["c"])
  assert not list(tmp_path.glob(".*"))


def test_a_missing_shard_is_named(tmp_path):
  safetensors_files.write(tmp_path, TENSORS.items(), shard_bytes=17)
  (tmp_path / "model-00002-of-00003.safetensors").unlink()
  with pytest.raises(ValueError, match="names model-00002-of-00003"):
    safetensors_files.SafetensorsSource(tmp_path)


@pytest.mark.parametrize("file", ["../a.safetensors", "/etc/x", "..", "d/e"])
def test_an_index_cannot_leave_its_directory(tmp_path, file):
  safetensors_files.write(tmp_path / "model", TENSORS.items(), shard_bytes=17)
  safetensors_files.write(tmp_path, TENSORS.items())
  index = {"weight_map": {"a": file}}
  (tmp_path / "model" / safetensors_files.INDEX).write_text(json.dumps(index))
  with pytest.raises(ValueError, match="must be in its directory"):
    safetensors_files.SafetensorsSource(tmp_path / "model")


def test_an_index_that_names_a_tensor_its_shard_lacks(tmp_path):
  safetensors_files.write(tmp_path, TENSORS.items(), shard_bytes=17)
  path = tmp_path / safetensors_files.INDEX
  index = json.loads(path.read_text())
  index["weight_map"]["b"] = index["weight_map"]["a"]
  path.write_text(json.dumps(index))
  with pytest.raises(ValueError, match="has no tensor b"):
    safetensors_files.SafetensorsSource(tmp_path)


def test_a_cut_file_is_refused(tmp_path):
  safetensors_files.write(tmp_path, TENSORS.items())
  path = tmp_path / safetensors_files.SINGLE
  path.write_bytes(path.read_bytes()[:-3])
  with pytest.raises(ValueError, match="not a complete safetensors file"):
    safetensors_files.SafetensorsSource(tmp_path)


def test_a_header_larger_than_the_file_is_refused(tmp_path):
  path = tmp_path / safetensors_files.SINGLE
  path.write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
  with pytest.raises(ValueError, match="not a complete safetensors file"):
    safetensors_files.SafetensorsSource(tmp_path)


def test_offsets_outside_the_file_are_refused(tmp_path):
  header = json.dumps(
    {"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}
  ).encode()
  path = tmp_path / safetensors_files.SINGLE
  path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 8)
  with pytest.raises(ValueError, match="not a complete safetensors file"):
    safetensors_files.SafetensorsSource(tmp_path)


def test_integers_are_no_weights(tmp_path):
  safetensors_files.write(tmp_path, {"a": np.arange(3)}.items())
  with pytest.raises(ValueError, match="tensor a has the type I64"):
    safetensors_files.SafetensorsSource(tmp_path)


class Bomb:
  def __reduce__(self):
    return pytest.fail, ("a pickle was loaded",)


def test_pickles_are_never_loaded(tmp_path):
  (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
  with pytest.raises(ValueError, match="pickle, which is not loaded"):
    safetensors_files.SafetensorsSource(tmp_path)


def test_a_full_disk_is_an_error_of_the_file(tmp_path, monkeypatch):
  def fail(*_, **__):
    raise safetensors.SafetensorError("I/O error: No space left on device")

  monkeypatch.setattr(safetensors.numpy, "save_file", fail)
  with pytest.raises(OSError, match=r"x.safetensors: .*No space left on dev"):
    safetensors_files.save_file(tmp_path / "x.safetensors", TENSORS)
