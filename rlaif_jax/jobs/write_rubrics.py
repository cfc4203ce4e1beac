# SPDX-License-Identifier: Apache-2.0
"""Lets a labeler write a rubric for each context, for `RubricJudgeConfig`."""

from __future__ import annotations

import pathlib

from rlaif_jax.api import labelers
from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.data import datasets
from rlaif_jax.labeling import rubric_writer
from rlaif_jax.labeling import rubrics as rubrics_lib


def run(
  *,
  output_dir: str,
  examples: datasets.ExampleSource,
  labeler: labelers.LabelerConfig,
  writer: rubric_writer.RubricWriterConfig = rubric_writer.RubricWriterConfig(),
  default_file: str = "",
  chunk_size: int = 64,
) -> records.Row:
  """Writes rubrics.jsonl, one rubric per context, in the order of the examples.

  A context for which the labeler writes no question goes to quarantine.jsonl.

  Args:
    output_dir: output directory; a second run resumes there.
    examples: contexts.
    labeler: language model that writes.
    writer: its prompt and limits.
    default_file: rubrics whose row without a context is added, as the rubric
      of contexts without one of their own; "": none is added.
    chunk_size: number of contexts that are stored at a time.
  """
  default = []
  if default_file:
    default = [r for r in rubrics_lib.read(default_file).rows if not r.context]
    if not default:
      raise ValueError(
        f"write_rubrics: default_file is {default_file!r}, where each row has "
        "a context; add a row without one, or leave default_file out"
      )
  labelers.check_labeler(labeler)
  directory = pathlib.Path(output_dir)
  quarantine = jsonl.Quarantine()
  contexts = list(dict.fromkeys(row.context for row in examples.read()))
  loaded = labelers.load_labeler(
    labeler, journal_file=f"{output_dir}/journal.jsonl"
  )
  found, usage = rubric_writer.write_in_chunks(
    directory / "rubrics.partial.jsonl",
    contexts,
    loaded.backend,
    writer,
    tokenizer=loaded.tokenizer,
    quarantine=quarantine,
    chunk_size=chunk_size,
    commit=loaded.commit,
  )
  jsonl.write_records(directory / "rubrics.jsonl", [*found, *default])
  return {
    "rubrics": f"{output_dir}/rubrics.jsonl",
    "contexts": len(contexts),
    "written": len(found),
    "criteria": sum(len(rubric.criteria) for rubric in found),
    "labeler": loaded.backend.name,
    **labelers.describe_usage(usage, loaded.prices),
    "quarantined": quarantine.write(directory / "quarantine.jsonl"),
    "quarantine_reasons": quarantine.counts(),
  }
