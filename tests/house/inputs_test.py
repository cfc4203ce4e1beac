# SPDX-License-Identifier: Apache-2.0
"""A module that opens files to read notes them in `core.inputs`."""

from __future__ import annotations

import ast

from tests.house import source

READERS = {"read_text", "read_bytes", "open", "safe_open", "GGUFReader"}
READERS |= {"ParquetFile", "memmap", "fromfile", "msgpack_restore", "builder"}

# Modules that open only what the run itself has written, or no data, and why.
OWN = {
  "rlaif_jax/api/sampling.py": "responses.partial.jsonl of the run",
  "rlaif_jax/cli/gin_reader.py": "what it says is in config.gin",
  "rlaif_jax/cli/input_records.py": "inputs.json; hashes",
  "rlaif_jax/cli/job_help.py": "docstrings of jobs",
  "rlaif_jax/cli/job_runner.py": "result.json of the run",
  "rlaif_jax/cli/next_command.py": "the comments of gin files",
  "rlaif_jax/cli/output_dirs.py": "config.gin of the run",
  "rlaif_jax/cli/output_lock.py": "locks and /proc",
  "rlaif_jax/core/folders.py": "lists of files that were written",
  "rlaif_jax/data/docstrings.py": "installed packages; their versions are kept",
  "rlaif_jax/engine/metrics.py": "metrics of the run",
  "rlaif_jax/engine/run_checkpoints.py": "checkpoints of the run",
  "rlaif_jax/engine/stages.py": "results of stages of the run",
  "rlaif_jax/evaluation/judge_alignment.py": "seconds.jsonl of the run",
  "rlaif_jax/experiments/toy_rows.py": "rows.jsonl of the run",
  "rlaif_jax/interop/zarr_files.py": "t5x_files notes all files of a folder",
  "rlaif_jax/labeling/beam_files.py": "api.beam_pipeline notes its files",
  "rlaif_jax/labeling/beam_labels.py": "the label store",
  "rlaif_jax/labeling/journal.py": "the journal of the run",
  "rlaif_jax/labeling/rating_file.py": "ratings of the run",
  "rlaif_jax/labeling/rubric_writer.py": "rubrics of the run",
  "rlaif_jax/labeling/store.py": "labels are found by the hash of their texts",
  "rlaif_jax/planner/program_costs.py": "files of the compiler",
  "rlaif_jax/rating/annotations.py": "annotations of the run",
  "rlaif_jax/rating/rating_page.py": "its own pages, and the key of the run",
  "rlaif_jax/text/chat_renderer.py": "/proc",
}


def opens(module: ast.Module) -> bool:
  return any(
    isinstance(node, ast.Call)
    and getattr(node.func, "attr", getattr(node.func, "id", "")) in READERS
    for node in ast.walk(module)
  )


def test_calls_are_found():
  for text in ("open(p)", "gzip.open(p)", "p.read_text()", "a.b.safe_open(p)"):
    assert opens(ast.parse(text))
  assert not opens(ast.parse("opened(p).read()"))


def test_all_readers_are_recorded():
  found, wrong = set(), []
  for path in source.modules():
    if path.is_relative_to(source.PACKAGE / "bench"):
      continue
    if opens(source.tree(path)):
      found.add(source.short(path))
      if "inputs.note(" not in source.text(path):
        wrong.append(source.short(path))
  assert not sorted(set(wrong) - set(OWN)), (
    "call core.inputs.note(path) before you open a user's file, or list the "
    "module in OWN"
  )
  assert not sorted(set(OWN) - set(wrong)), "delete these from OWN"
