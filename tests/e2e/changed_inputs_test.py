# SPDX-License-Identifier: Apache-2.0
"""No run resumes on other data, another vocabulary, policy or version."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from rlaif_jax import main
from rlaif_jax.cli import input_records
from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.engine import loop
from rlaif_jax.engine import preemption
from tests import tiny_world as tiny
from tests.e2e import stages
from tests.tiny_world import world  # noqa: F401


class Run:
  """A command whose training is interrupted at its first step."""

  def __init__(self, root, job, recipe, *flags):
    (root / "x.gin").write_text(
      recipe.replace("batch_size = 4", "batch_size = 8")
    )
    self.folder = root / "out"
    self.command = [f"--job={job}", f"--gin_file={root / 'x.gin'}", *flags]
    self.command += [f"--output_dir={self.folder}"]
    self.starts = 0

  def fit(self, *_, **__):
    self.starts += 1
    raise preemption.Preempted("stopped")


@pytest.fixture(scope="module")
def interrupted(world, tmp_path_factory):  # noqa: F811
  """Runs of SFT and of DPO, and the copy of the world that they read."""
  root = tmp_path_factory.mktemp("inputs")
  shutil.copytree(world, root / "world")
  data = root / "world"
  tiny.labels(data / "labels.jsonl", 32, 0)
  tiny.labels(data / "test_labels.jsonl", 32, 1)
  for name in ("sft", "dpo"):
    (root / name).mkdir()
  runs = {
    "sft": Run(
      root / "sft",
      "train_sft",
      stages.SFT,
      f"--data_dir={data}",
      f"--examples_file={data / 'examples.jsonl'}",
    ),
    "dpo": Run(
      root / "dpo",
      "train_dpo",
      stages.DPO,
      f"--labels_file={data / 'labels.jsonl'}",
      f"--test_labels_file={data / 'test_labels.jsonl'}",
      f"--policy_dir={data / 'sft' / 'model'}",
    ),
  }
  with pytest.MonkeyPatch.context() as patch:
    for run in runs.values():
      patch.setattr(loop, "fit", run.fit)
      assert main.main(run.command) == preemption.EXIT_CODE
      assert run.starts == 1
  return data, runs


def other_examples(path):
  rows = jsonl.read_records(records.Example, path)
  jsonl.write_records(path, rows[::-1])


def other_labels(path):
  """Opposite labels under the same ids."""
  text = path.read_text().replace('"p_first": 0.9', '"p_first": 0.8')
  path.write_text(text)


def other_vocabulary(path):
  path.write_bytes(path.read_bytes() + b" ")


def other_policy(path):
  """Another model of the same name, of which a hash in model.json tells."""
  row = json.loads(path.read_text())
  path.write_text(json.dumps({**row, "hash": "0" * 64}))


@pytest.mark.parametrize(
  "name, file, change",
  [
    ("sft", "examples.jsonl", other_examples),
    ("sft", "tokenizer.model", other_vocabulary),
    ("dpo", "labels.jsonl", other_labels),
    ("dpo", "test_labels.jsonl", os.unlink),
    ("dpo", "sft/model/model.json", other_policy),
    ("dpo", "sft/model/tokenizer.model", other_vocabulary),
  ],
)
def test_a_run_does_not_resume_on_other_inputs(
  interrupted, monkeypatch, capsys, name, file, change
):
  data, runs = interrupted
  run, path = runs[name], data / file
  monkeypatch.setattr(loop, "fit", run.fit)
  whole = path.read_bytes()
  change(path)
  before = run.starts
  assert main.main(run.command) == 2
  said = capsys.readouterr().err
  assert f"{path}: " in said and "--accept_changes" in said
  assert run.starts == before
  path.write_bytes(whole)  # With another time of its last change.
  assert main.main(run.command) == preemption.EXIT_CODE
  assert run.starts == before + 1


def test_a_run_does_not_resume_with_other_versions(
  interrupted, monkeypatch, capsys
):
  _, runs = interrupted
  run = runs["sft"]
  monkeypatch.setattr(loop, "fit", run.fit)
  other = {**input_records.installed(), "jax": "0.4.35"}
  before = run.starts
  with monkeypatch.context() as patch:
    patch.setattr(input_records, "installed", lambda: dict(other))
    assert main.main(run.command) == 2
    assert "-> 0.4.35" in capsys.readouterr().err and run.starts == before
    flags = [*run.command, "--accept_changes"]
    assert main.main(flags) == preemption.EXIT_CODE
  stored = json.loads((run.folder / "inputs.json").read_text())
  (accepted,) = stored["accepted"]
  assert accepted["changes"][0].endswith("-> 0.4.35")
  assert run.starts == before + 1
