# SPDX-License-Identifier: Apache-2.0
"""Reads raw rows of published data sets: JSONL, Parquet or TFDS.

Yields (location, row); the location is for error messages.
"""

from __future__ import annotations

import os
import pathlib
from typing import Iterator, Sequence

from rlaif_jax.core import inputs
from rlaif_jax.core import jsonl
from rlaif_jax.core import parsing

# Published .json files of these sets have one object per line too.
SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet")

Rows = Iterator[tuple[str, object]]


def require_directory(
  directory: str, stems: Sequence[str], *, what: str
) -> pathlib.Path:
  """Returns the directory of a data set.

  Raises:
    ValueError: if it does not exist; names the files that it should have.
  """
  root = pathlib.Path(directory)
  if not directory or not root.is_dir():
    raise ValueError(
      f"{what}: the directory {directory!r} does not exist. Put the published "
      f"files there ({_names(stems)}) and name it as prepare.source_dir, or "
      "name a TensorFlow dataset as tfds:NAME"
    )
  return root


def find_files(root: pathlib.Path, stems: Sequence[str]) -> list[pathlib.Path]:
  """Returns the files of the first stem that has any.

  A stem is a prefix of a path relative to the directory.
  """
  files = sorted(
    (path.relative_to(root).as_posix(), path)
    for path in root.rglob("*")
    if path.name.endswith(SUFFIXES)
  )
  for stem in stems:
    found = [path for name, path in files if name.startswith(stem)]
    if found:
      return found
  return []


def require_files(
  root: pathlib.Path, stems: Sequence[str], *, what: str
) -> list[pathlib.Path]:
  """Returns `find_files`, of which there must be at least one.

  Raises:
    ValueError: if there is none; names the expected files.
  """
  files = find_files(root, stems)
  if not files:
    raise ValueError(
      f"{what}: {root} has none of the files {_names(stems)}; put one there"
    )
  return files


def _names(stems: Sequence[str]) -> str:
  return " or ".join(
    f"{stem}*.jsonl[.gz]|.json[.gz]|.parquet" for stem in stems
  )


def read_file(path: pathlib.Path, quarantine: jsonl.Quarantine) -> Rows:
  """Yields the rows of a file; lines that are not JSON go to quarantine.

  Raises:
    ValueError: if the file is truncated.
  """
  if path.suffix == ".parquet":
    with parsing.naming(path):
      yield from _parquet(path, quarantine)
    return
  for number, line in jsonl.read_lines(path):
    where = f"{path}:{number}"
    try:
      row = jsonl.parse_line(line)
    except ValueError as error:
      quarantine.add(where=where, reason=str(error), row=jsonl.as_text(line))
      continue
    yield where, row


def _parquet(path: pathlib.Path, quarantine: jsonl.Quarantine) -> Rows:
  try:
    from pyarrow import parquet
  except ImportError as error:
    raise ValueError(
      f"{path}: Parquet files need pyarrow; type: pip install 'rlaif_jax[data]'"
    ) from error
  number = 0
  for batch in parquet.ParquetFile(inputs.note(path)).iter_batches():
    for index in range(len(batch)):
      number += 1
      where = f"{path}:{number}"
      try:
        (row,) = batch.slice(index, 1).to_pylist()
      except UnicodeDecodeError as error:
        quarantine.add(where=where, reason=str(error), row="")
        continue
      yield where, row


def read_tfds(name: str, split: str) -> Rows:
  """Yields the rows of a TensorFlow dataset, with byte strings decoded.

  Raises:
    ValueError: if the dataset has no such split.
  """
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  import tensorflow_datasets as tfds

  builder = tfds.builder(name)
  if split not in builder.info.splits:
    raise ValueError(
      f"tfds:{name} has no split {split!r}; it has "
      f"{sorted(builder.info.splits)}. Download it with tfds first"
    )
  for file in sorted(pathlib.Path(builder.data_dir).rglob("*")):
    inputs.note(file)
  rows = tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False))
  for number, row in enumerate(rows, start=1):
    yield f"tfds:{name}/{split}:{number}", decoded(row)


def decoded(value: object) -> object:
  """Converts NumPy values and bytes to Python values.

  A TFDS sequence of records stays a record of lists.
  """
  if isinstance(value, dict):
    return {key: decoded(part) for key, part in value.items()}
  if isinstance(value, bytes):
    return value.decode("utf-8")
  if hasattr(value, "tolist"):
    return decoded(value.tolist())
  if isinstance(value, list):
    return [decoded(part) for part in value]
  return value
