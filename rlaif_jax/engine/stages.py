# SPDX-License-Identifier: Apache-2.0
"""Stages of a run that leave a result file and are not run again."""

from __future__ import annotations

import json
import pathlib
from typing import Callable

from rlaif_jax.core import jsonl
from rlaif_jax.core import parsing
from rlaif_jax.core import records
from rlaif_jax.engine import processes


def run_once(
  path: pathlib.Path,
  stage: Callable[..., records.Row],
  *arguments: object,
) -> records.Row:
  """Returns the result of a stage, and keeps it in a file.

  All processes run the stage together, or none does.

  Args:
    path: result file; if it exists, the stage is not run.
    stage: returns a JSON-serialisable result.
    *arguments: arguments of the stage.
  """
  if not processes.any_of_all(path.exists()):
    found = stage(*arguments)
    jsonl.write_text(path, json.dumps(found, sort_keys=True) + "\n")
  with parsing.naming(path):
    return json.loads(path.read_text("utf-8"))
