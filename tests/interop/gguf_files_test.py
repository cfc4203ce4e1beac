# SPDX-License-Identifier: Apache-2.0
"""GGUF tensors of every quantisation; damaged files are refused by name."""

from __future__ import annotations

import numpy as np
import pytest

from rlaif_jax.interop import gguf_files

gguf = pytest.importorskip("gguf")
KINDS = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"]


def write(path, kind="F32", shape=(4, 256)):
  writer = gguf.GGUFWriter(path, "llama")
  writer.add_uint32("llama.block_count", 2)
  writer.add_array("some.words", ["a", "b"])
  values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
  quantisation = gguf.GGMLQuantizationType[kind]
  writer.add_tensor(
    "w", gguf.quantize(values, quantisation), raw_dtype=quantisation
  )
  writer.add_tensor("norm", np.ones(8, np.float32))
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return values


@pytest.mark.parametrize("kind", KINDS)
def test_values_come_back(tmp_path, kind):
  values = write(tmp_path / "m.gguf", kind)
  source = gguf_files.GGUFSource(tmp_path / "m.gguf")
  assert source.shapes() == {"w": (4, 256), "norm": (8,)}
  read = source.read("w")
  assert read.dtype == np.float32
  tolerance = {"F32": 0, "F16": 2e-3, "BF16": 2e-2, "Q8_0": 2e-2}
  np.testing.assert_allclose(read, values, atol=tolerance.get(kind, 0.35))
  assert np.corrcoef(read.ravel(), values.ravel())[0, 1] > 0.99


@pytest.mark.parametrize("kind", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"])
def test_k_quants_are_undone(tmp_path, kind):
  """The library cannot make these, so blocks of random bits are read."""
  quantisation = gguf.GGMLQuantizationType[kind]
  block, size = gguf.GGML_QUANT_SIZES[quantisation]
  raw = np.random.default_rng(0).integers(0, 60, (3, 2 * size), dtype=np.uint8)
  writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
  writer.add_tensor("w", raw, raw_dtype=quantisation)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  source = gguf_files.GGUFSource(tmp_path / "m.gguf")
  assert source.shapes() == {"w": (3, 2 * block)}
  np.testing.assert_array_equal(
    source.read("w"), gguf.dequantize(raw, quantisation)
  )


def test_metadata_are_plain_values(tmp_path):
  write(tmp_path / "m.gguf")
  metadata = gguf_files.GGUFSource(tmp_path / "m.gguf").metadata
  assert metadata["general.architecture"] == "llama"
  assert metadata["llama.block_count"] == 2
  assert metadata["some.words"] == ["a", "b"]


def test_something_else_is_refused(tmp_path):
  (tmp_path / "m.gguf").write_bytes(b"GGML and so on")
  with pytest.raises(ValueError, match="does not start with GGUF"):
    gguf_files.GGUFSource(tmp_path / "m.gguf")


@pytest.mark.parametrize("keep", [6, 20, 100, 300, 2000, -16])
def test_a_cut_file_is_refused(tmp_path, keep):
  write(tmp_path / "whole.gguf")
  data = (tmp_path / "whole.gguf").read_bytes()
  (tmp_path / "m.gguf").write_bytes(data[:keep])
  with pytest.raises(ValueError, match="m.gguf.*(truncated|needs)"):
    gguf_files.GGUFSource(tmp_path / "m.gguf")


def test_counts_beyond_the_file_are_refused(tmp_path):
  write(tmp_path / "m.gguf")
  data = bytearray((tmp_path / "m.gguf").read_bytes())
  data[8:16] = (1 << 50).to_bytes(8, "little")  # The number of tensors.
  (tmp_path / "m.gguf").write_bytes(data)
  with pytest.raises(ValueError, match="m.gguf"):
    gguf_files.GGUFSource(tmp_path / "m.gguf")


def test_an_unknown_quantisation_is_named(tmp_path):
  quantisation = gguf.GGMLQuantizationType.Q8_K
  block, size = gguf.GGML_QUANT_SIZES[quantisation]
  writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
  writer.add_tensor(
    "odd", np.zeros((1, size), np.uint8), raw_dtype=quantisation
  )
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  with pytest.raises(ValueError, match="tensor odd is quantized as Q8_K"):
    gguf_files.GGUFSource(tmp_path / "m.gguf")
