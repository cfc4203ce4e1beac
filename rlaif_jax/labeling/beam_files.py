# SPDX-License-Identifier: Apache-2.0
"""Beam pipeline from files of pairs to files of labels, on any file system.

Reads and writes the files; `labeling.beam_labels` labels the pairs.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any, BinaryIO, Callable, Iterator, Sequence

from rlaif_jax.core import jsonl
from rlaif_jax.core import parsing
from rlaif_jax.core import records
from rlaif_jax.labeling import beam_labels

# Runs in this process. Beam's name "DirectRunner" would first try to download
# another runner, Prism.
_LOCAL_RUNNER = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"


def label_files(
  pattern: str,
  folder: str,
  config: beam_labels.PipelineConfig,
  *,
  flags: Sequence[str] = (),
) -> dict[str, int]:
  """Runs a pipeline from files of pairs to files of labels, and waits for it.

  Args:
    pattern: pattern of JSONL files, compressed or not, in Beam's syntax.
    folder: directory of labels-*.jsonl and quarantine-*.jsonl.
    config: settings of the pipeline.
    flags: Beam options such as "--runner=FlinkRunner"; without a runner,
      everything runs in this process.

  Returns:
    The counters of `beam_labels.label_pairs`. Lines that are not pairs count as
    quarantined.

  Raises:
    ImportError: Beam is not installed.
    OSError: no file matches the pattern.
    RuntimeError: the pipeline failed.
  """
  beam = beam_labels.import_beam()
  from apache_beam.io import fileio
  from apache_beam.io import filesystems
  from apache_beam.options import pipeline_options

  bad = beam_labels.QUARANTINE
  if old := written(folder):  # An earlier start may have written more files.
    filesystems.FileSystems.delete(old)
  flags = list(flags)
  if not any(flag.startswith("--runner") for flag in flags):
    flags.append(f"--runner={_LOCAL_RUNNER}")
  pipeline = beam.Pipeline(options=pipeline_options.PipelineOptions(flags))
  read = (
    pipeline
    | fileio.MatchFiles(pattern, fileio.EmptyMatchTreatment.DISALLOW)
    | beam.Reshuffle()
    | fileio.ReadMatches()
    | "ReadPairs" >> beam.FlatMap(_read_file).with_outputs(bad, main="pairs")
  )
  output = read.pairs | "LabelPairs" >> beam_labels.label_pairs(config)
  _write(output["labels"], folder, "labels", _label_line)
  rejected = (read[bad], output[bad]) | "Rejected" >> beam.Flatten()
  _write(rejected, folder, bad, jsonl.dump_row)
  result = pipeline.run()
  result.wait_until_finish()
  return beam_labels.counts_of(result)


def written(folder: str) -> list[str]:
  """Returns the files of a pipeline in a folder, which the next one deletes."""
  beam_labels.import_beam()
  return [
    path
    for name in ("labels", beam_labels.QUARANTINE)
    for path in _paths(f"{folder}/{name}-*-of-*.jsonl")
  ]


def _read_file(file: Any) -> Iterator[Any]:
  """Yields the pairs of a file; tags bad lines with file and line number."""
  beam = beam_labels.import_beam()
  with file.open() as opened:
    for where, line in _lines(file.metadata.path, opened):
      try:
        yield records.to_row(_parse(line))
      except (ValueError, KeyError, TypeError) as error:
        row = beam_labels.bad_row(where, error, jsonl.as_text(line))
        beam_labels.count({"quarantined": 1})
        yield beam.pvalue.TaggedOutput(beam_labels.QUARANTINE, row)


def _lines(path: str, opened: BinaryIO) -> Iterator[tuple[str, bytes]]:
  """Yields ("file:line number", line) of the lines that are not blank."""
  for number, line in enumerate(iter(opened.readline, b""), start=1):
    if line.strip():
      yield f"{path}:{number}", line


def _parse(line: bytes) -> records.Pair:
  return beam_labels.as_pair(parsing.json_value(line))


def _label_line(row: records.Row) -> str:
  """Returns a line that parses as a `records.Preference`."""
  label = {name: value for name, value in row.items() if name != "provenance"}
  return jsonl.dump_row(label)


def _write(
  rows: Any, folder: str, name: str, as_line: Callable[[records.Row], str]
) -> None:
  """Writes one line per row; the runner chooses the number of files."""
  beam = beam_labels.import_beam()
  lines = rows | f"Lines of {name}" >> beam.Map(as_line)
  write = beam.io.WriteToText(
    f"{folder}/{name}", file_name_suffix=".jsonl", skip_if_empty=True
  )
  _ = lines | f"Write {name}" >> write


def read_rows(pattern: str) -> Iterator[records.Row]:
  """Yields the rows of the JSONL files that match the pattern."""
  return (json.loads(line) for line in _all_lines(pattern))


def read_pairs(pattern: str) -> Iterator[records.Pair]:
  """Yields the pairs that the pipeline labels, in order of files and lines."""
  for line in _all_lines(pattern):
    with contextlib.suppress(ValueError, KeyError, TypeError):
      yield _parse(line)


def _all_lines(pattern: str) -> Iterator[bytes]:
  beam_labels.import_beam()
  from apache_beam.io import filesystems

  for path in _paths(pattern):
    with filesystems.FileSystems.open(path) as opened:
      for _, line in _lines(path, opened):
        yield line


def _paths(pattern: str) -> list[str]:
  """Returns the files that match the pattern in Beam's syntax."""
  from apache_beam.io import filesystems

  matches = filesystems.FileSystems.match([pattern])
  return sorted(m.path for match in matches for m in match.metadata_list)


def is_local(path: str) -> bool:
  """Returns whether a path is on a mounted file system, by Beam's notation."""
  return "://" not in path
