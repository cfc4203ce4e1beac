# SPDX-License-Identifier: Apache-2.0
"""Chunks that divide, plain paths, and headers that fit their files."""

from __future__ import annotations

import json
import math
import pathlib

import numpy as np
import pytest

from rlaif_jax.interop import zarr_files


def write(folder, array, chunks, files, **changes):
  """An uncompressed array; `files` is {chunk's name: block}."""
  header = {
    "zarr_format": 2,
    "shape": list(array.shape),
    "chunks": chunks,
    "dtype": array.dtype.str,
    "compressor": None,
    "fill_value": 0,
    "filters": None,
    "order": "C",
    **changes,
  }
  folder.mkdir()
  (folder / ".zarray").write_text(json.dumps(header))
  for name, block in files.items():
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(np.ascontiguousarray(block).tobytes())


@pytest.mark.parametrize(
  "shape, elements, expected",
  [
    ((4, 6), 100, [4, 6]),
    ((4, 6), 12, [4, 3]),
    ((6, 6), 12, [3, 3]),
    ((7,), 6, [1]),
    ((), 1, []),
    ((0, 3), 8, [1, 3]),
    # T5 XL's embedding in float32: 64 MiB are 16,777,216 elements.
    ((32128, 2048), 2**24, [8032, 2048]),
  ],
)
def test_chunks_divide_the_shape(shape, elements, expected):
  chunks = zarr_files.chunk_shape(shape, elements)
  assert chunks == expected
  assert math.prod(chunks) <= elements
  assert all(size % chunk == 0 for size, chunk in zip(shape, chunks))


@pytest.mark.parametrize(
  "path", ["/a", "a//b", "../a", "a/..", "", "a\\b", "a\0", None, 3, "./a"]
)
def test_paths_that_could_leave_are_refused(path):
  with pytest.raises(ValueError, match="here: .* is not a plain name"):
    zarr_files.plain_path(pathlib.Path("here"), path)
  assert zarr_files.plain_path(pathlib.Path("here"), "a.b/c") == ["a.b", "c"]


@pytest.mark.parametrize("separator", [".", "/"])
def test_reads_chunks_by_either_separator(tmp_path, separator):
  array = np.arange(6, dtype=">i2").reshape(2, 3)
  files = {f"0{separator}0": array[:, :2]}
  files[f"0{separator}1"] = array[:, [2, 2]]
  write(tmp_path / "x", array, [2, 2], files, dimension_separator=separator)
  found = zarr_files.ZarrArray(zarr_files.open_store(tmp_path), "x").checked()
  assert found.shape == (2, 3) and found.dtype == np.int16
  np.testing.assert_array_equal(found.read(), array)


def test_a_short_chunk_is_found_before_it_is_read(tmp_path):
  array = np.ones((2, 3), np.float32)
  write(tmp_path / "x", array, [2, 3], {"0.0": array[:1]})
  with pytest.raises(ValueError, match="chunk of 24 bytes.*found 12 bytes"):
    zarr_files.ZarrArray(zarr_files.open_store(tmp_path), "x").checked()


def test_a_linked_chunk_elsewhere_is_not_read(tmp_path):
  array = np.ones((2, 3), np.float32)
  store = tmp_path / "store"
  store.mkdir()
  write(store / "x", array, [2, 3], {"0.0": array})
  (store / "x" / "0.0").rename(tmp_path / "away")
  (store / "x" / "0.0").symlink_to(tmp_path / "away")
  with pytest.raises(ValueError, match="found no bytes"):
    zarr_files.ZarrArray(zarr_files.open_store(store), "x").checked()
