# SPDX-License-Identifier: Apache-2.0
"""Raw rows of published data sets: JSONL, gzipped JSONL, Parquet, or TFDS.

Yields (where, row) so that a bad row can be named; makes no sense of a row.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any, Iterator, Sequence

from rlaif_jax.core import jsonl

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")


def find_files(
  directory: str, stems: Sequence[str], *, what: str
) -> list[pathlib.Path]:
  """Files of a directory whose names begin with one of the stems.

  Raises:
    ValueError: no such directory, or none of the files; says which files to
      put where.
  """
  root = pathlib.Path(directory)
  names = ", ".join(f"{stem}*{suffix}" for stem in stems for suffix in SUFFIXES)
  if not directory or not root.is_dir():
    raise ValueError(
      f"{what}: the directory {directory!r} does not exist. Put the published "
      f"files there ({names}) and name it as prepare.source_dir, or "
      "name a TensorFlow dataset as tfds:NAME"
    )
  files = sorted(
    path
    for path in root.rglob("*")
    if path.name.endswith(SUFFIXES)
    and any(
      path.relative_to(root).as_posix().startswith(stem)
      or path.name.startswith(stem)
      for stem in stems
    )
  )
  if not files:
    raise ValueError(f"{what}: {root} has none of the files {names}")
  return files


def read_files(
  files: Sequence[pathlib.Path], quarantine: jsonl.Quarantine
) -> Iterator[tuple[str, dict[str, Any]]]:
  """Rows of files, in order; lines that are no JSON go to quarantine."""
  for path in files:
    if path.suffix == ".parquet":
      yield from _parquet(path)
      continue
    for number, line in jsonl.read_lines(path):
      where = f"{path}:{number}"
      try:
        yield where, json.loads(line)
      except ValueError as error:
        quarantine.add(
          where=where, reason=f"no JSON: {error}", row=line.rstrip("\n")
        )


def _parquet(path: pathlib.Path) -> Iterator[tuple[str, dict[str, Any]]]:
  from pyarrow import parquet

  number = 0
  for batch in parquet.ParquetFile(path).iter_batches():
    for row in batch.to_pylist():
      number += 1
      yield f"{path}:{number}", row


def read_tfds(name: str, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
  """Rows of a TensorFlow dataset, byte strings decoded."""
  import tensorflow_datasets as tfds

  rows = tfds.as_numpy(tfds.load(name, split=split, shuffle_files=False))
  for number, row in enumerate(rows, start=1):
    yield f"tfds:{name}/{split}:{number}", _decoded(row)


def _decoded(value: Any) -> Any:
  if isinstance(value, dict):
    return {key: _decoded(part) for key, part in value.items()}
  if isinstance(value, bytes):
    return value.decode("utf-8")
  if hasattr(value, "tolist"):
    return _decoded(value.tolist())
  if isinstance(value, list):
    return [_decoded(part) for part in value]
  return value
