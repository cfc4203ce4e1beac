# SPDX-License-Identifier: Apache-2.0
"""From files of pairs to files of labels, by Beam, on any file system.

Owns what a file of the `label_beam` job is; how pairs are labelled is
`labeling.beam_labels`.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any, Callable, Iterator, Sequence

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.labeling import beam_labels

# Runs in this process. The name DirectRunner, where Beam has no other reason
# against it, begins by downloading another runner.
_LOCAL_RUNNER = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"


def label_files(
  pattern: str,
  folder: str,
  config: beam_labels.LabelingConfig,
  *,
  flags: Sequence[str] = (),
) -> dict[str, int]:
  """Runs a pipeline from files of pairs to files of labels, and waits for it.

  Args:
    pattern: of JSONL files, compressed or not, as Beam reads it.
    folder: where labels-*.jsonl and quarantine-*.jsonl are written.
    config: how pairs are labelled.
    flags: Beam's options, such as "--runner=FlinkRunner"; without a runner,
      everything runs in this process.

  Returns:
    The counters of `beam_labels.label_pairs`, bad lines among the quarantined.

  Raises:
    ImportError: Beam is not installed.
    OSError: no file has the pattern.
    RuntimeError: the pipeline failed.
  """
  beam = beam_labels.import_beam()
  from apache_beam.io import fileio
  from apache_beam.io import filesystems
  from apache_beam.options import pipeline_options

  bad = beam_labels.QUARANTINE
  for name in ("labels", bad):  # An earlier start may have written more.
    old = _paths(f"{folder}/{name}-*-of-*.jsonl")
    if old:
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
  found = read.pairs | "LabelPairs" >> beam_labels.label_pairs(config)
  _write(found["labels"], folder, "labels", _label_line)
  aside = (read[bad], found[bad]) | "Aside" >> beam.Flatten()
  _write(aside, folder, bad, jsonl.dump_row)
  result = pipeline.run()
  result.wait_until_finish()
  return beam_labels.counts_of(result)


def _read_file(file: Any) -> Iterator[Any]:
  """Pairs of a file, and its bad lines by file and number."""
  beam = beam_labels.import_beam()
  with file.open() as opened:
    for where, line in _lines(file.metadata.path, opened):
      try:
        yield records.to_row(_parse(line))
      except (ValueError, KeyError, TypeError) as error:
        row = beam_labels.bad_row(where, error, jsonl.as_text(line))
        beam_labels.count({"quarantined": 1})
        yield beam.pvalue.TaggedOutput(beam_labels.QUARANTINE, row)


def _lines(path: str, opened: Any) -> Iterator[tuple[str, bytes]]:
  """Lines that are not blank, with their places."""
  for number, line in enumerate(iter(opened.readline, b""), start=1):
    if line.strip():
      yield f"{path}:{number}", line


def _parse(line: bytes) -> records.Pair:
  return beam_labels.as_pair(json.loads(line))


def _label_line(row: dict[str, Any]) -> str:
  """A line that reads as a `records.Preference`."""
  own = {name: value for name, value in row.items() if name != "provenance"}
  return jsonl.dump_row(own)


def _write(
  rows: Any, folder: str, name: str, as_line: Callable[[Any], str]
) -> None:
  """One line a row, in as many files as the runner likes; none without rows."""
  beam = beam_labels.import_beam()
  lines = rows | f"Lines of {name}" >> beam.Map(as_line)
  write = beam.io.WriteToText(
    f"{folder}/{name}", file_name_suffix=".jsonl", skip_if_empty=True
  )
  _ = lines | f"Write {name}" >> write


def read_rows(pattern: str) -> Iterator[dict[str, Any]]:
  """Rows of the JSONL files with the pattern, on any file system."""
  return (json.loads(line) for line in _all_lines(pattern))


def read_pairs(pattern: str) -> Iterator[records.Pair]:
  """The pairs that the pipeline labels, in the order of files and lines."""
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
  """Files with the pattern, as Beam reads it."""
  from apache_beam.io import filesystems

  matches = filesystems.FileSystems.match([pattern])
  return sorted(m.path for match in matches for m in match.metadata_list)


def is_local(path: str) -> bool:
  """Whether it lies on this machine's file system, by Beam's notation."""
  return "://" not in path
