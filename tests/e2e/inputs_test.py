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

# Runs commands, and prints which files each opened to read below a folder. The
# hook cannot be removed, so it has a process of its own.
_WATCHED = """
import json, os, sys
below, opened, found = sys.argv[1], set(), []
def hook(event, arguments):
  if event == "open" and isinstance(arguments[0], str):
    path, flags = os.path.abspath(arguments[0]), arguments[2]
    if path.startswith(below + os.sep) and flags & 3 != os.O_WRONLY:
      opened.add(path)
sys.addaudithook(hook)
from rlaif_jax import main
for command in json.loads(sys.argv[2]):
  opened.clear()
  if code := main.main(command):
    sys.exit(code)
  found.append(sorted(path for path in opened if os.path.isfile(path)))
print(json.dumps(found))
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


def command(root, job, recipe, output_dir, *flags):
  (root / f"{job}.gin").write_text(recipe)
  gin = f"--gin_file={root / job}.gin"
  return [f"--job={job}", gin, f"--output_dir={output_dir}", *flags]


def test_all_that_is_opened_is_recorded(root):
  data = root / "data"
  outputs = [data / "sft", root / "labels"]
  commands = [
    command(
      root,
      "train_sft",
      stages.SFT,
      outputs[0],
      f"--data_dir={data}",
      f"--examples_file={data / 'examples.jsonl'}",
      "--num_steps=1",
    ),
    command(
      root,
      "label",
      stages.LABEL.replace("docstring_pairwise", f"{data}/own.toml"),
      outputs[1],
      f"--pairs_file={data / 'train.jsonl'}",
      f"--human_labels_file={data / 'test.jsonl'}",
      f"--labeler_dir={outputs[0] / 'model'}",
      "--num_exemplars=1",
      "--gin.PairwiseJudgeConfig.max_context_tokens=150",
    ),
  ]
  done = subprocess.run(
    [sys.executable, "-c", _WATCHED, data, json.dumps(commands)],
    cwd=ROOT,
    env={**os.environ, "XLA_FLAGS": xla_flags.QUICK},  # One device.
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  expected = [
    {"examples.jsonl", "tokenizer.model"},
    {
      *("train.jsonl", "test.jsonl", "own.toml", "examples.toml"),
      *("sft/model/model.json", "sft/model/tokenizer.model"),
    },
  ]
  opened = json.loads(done.stdout.splitlines()[-1])
  for paths, output, names in zip(opened, outputs, expected, strict=True):
    stored = json.loads((output / "inputs.json").read_text())["files"]
    # A finished model is known by its model.json, which has the hashes.
    read = {
      path
      for path in map(pathlib.Path, paths)
      if not path.is_relative_to(output) and "params" not in path.parts
    }
    assert {path.relative_to(data).as_posix() for path in read} == names
    assert {str(path) for path in read} <= set(stored)
