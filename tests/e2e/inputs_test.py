# SPDX-License-Identifier: Apache-2.0
"""Every file that a job opens is in its inputs.json, as Python itself tells."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import pytest

from rlaif_jax.text import template_files
from tests import tiny_world as tiny
from tests import xla_flags
from tests.e2e import stages

ROOT = pathlib.Path(__file__).parents[2]

# Runs a command, and writes which files it opened to read below a folder. The
# hook cannot be removed, so it has a process of its own.
_WATCHED = """
import json, os, pathlib, sys
below, opened = sys.argv[1], set()
def hook(event, arguments):
  if event == "open" and isinstance(arguments[0], str):
    path, flags = os.path.abspath(arguments[0]), arguments[2]
    if path.startswith(below + os.sep) and flags & 3 != os.O_WRONLY:
      opened.add(path)
sys.addaudithook(hook)
from rlaif_jax import main
code = main.main(sys.argv[3:])
opened = sorted(path for path in opened if os.path.isfile(path))
pathlib.Path(sys.argv[2]).write_text(json.dumps(opened))
sys.exit(code)
"""

_EXEMPLARS = """
polarity = "prefer"
[[exemplars]]
context = "cat"
candidates = ["a", "b"]
label = "1"
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  """A folder with all that is read in `data`, and nothing else there."""
  root = tmp_path_factory.mktemp("root")
  data = root / "data"
  data.mkdir()
  tiny.write_corpus(data / "examples.jsonl", data / "tokenizer.model")
  for name in ("train.jsonl", "test.jsonl"):
    tiny.labels(data / name, 8, 0)
  text = (template_files.TEMPLATES / "docstring_pairwise.toml").read_text()
  (data / "own.toml").write_text('exemplars_file = "examples.toml"\n' + text)
  (data / "examples.toml").write_text(_EXEMPLARS)
  return root


def run(root, job, recipe, *flags):
  """Runs a job; returns the files that it opened and those it recorded."""
  (root / f"{job}.gin").write_text(recipe)
  arguments = [
    f"--job={job}",
    f"--gin_file={root / job}.gin",
    f"--output_dir={root / job}",
    *flags,
  ]
  done = subprocess.run(
    [sys.executable, "-c", _WATCHED, root / "data", root / "opened.json"]
    + arguments,
    cwd=ROOT,
    env={**os.environ, "XLA_FLAGS": xla_flags.QUICK},  # One device.
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  opened = json.loads((root / "opened.json").read_text())
  stored = json.loads((root / job / "inputs.json").read_text())["files"]
  # A finished model is known by its model.json, which has the hashes.
  return {path for path in opened if "/params/" not in path}, set(stored)


def names(root, paths):
  return {pathlib.Path(p).relative_to(root / "data").as_posix() for p in paths}


def test_all_that_is_opened_is_recorded(root):
  opened, stored = run(
    root,
    "train_sft",
    stages.SFT,
    f"--data_dir={root / 'data'}",
    f"--examples_file={root / 'data' / 'examples.jsonl'}",
    "--num_steps=1",
  )
  assert names(root, opened) == {"examples.jsonl", "tokenizer.model"}
  assert opened <= stored
  (root / "train_sft" / "model").rename(root / "data" / "model")
  opened, stored = run(
    root,
    "label",
    stages.LABEL.replace("docstring_pairwise", f"{root / 'data'}/own.toml"),
    f"--pairs_file={root / 'data' / 'train.jsonl'}",
    f"--human_labels_file={root / 'data' / 'test.jsonl'}",
    f"--labeler_dir={root / 'data' / 'model'}",
    "--num_exemplars=1",
    "--max_context_tokens=150",
  )
  assert names(root, opened) >= {
    *("train.jsonl", "test.jsonl", "own.toml", "examples.toml"),
    *("model/model.json", "model/tokenizer.model"),
  }
  assert opened <= stored
