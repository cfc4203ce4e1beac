# SPDX-License-Identifier: Apache-2.0
"""Each toy recipe from its file to a page, with its last arm, made small."""

from __future__ import annotations

import json
import re
import shlex

import pytest

from rlaif_jax import main
from rlaif_jax.cli import gin_reader
from tests import testing
from tests.house import recipes_test
from tests.house import source

RECIPES = sorted((source.ROOT / "gin_configs/recipes").glob("toy_*.gin"))
# One of arms with policies, one of arms on pairs; the others run at night.
BY_DAY = ("toy_frontier", "toy_weights")
SMALL = {
  "policy/DecoderConfig.num_layers": 1,
  "ToyConfig.sft_steps": 2,
  "ToyConfig.pairs": 32,
  "ToyConfig.test_pairs": 32,
  "ToyConfig.reference": 32,
  "ToyConfig.batch_size": 8,
  "ToyProxyConfig.epochs": 1,
  "ToyPolicyConfig.steps": 4,
  "ToyPolicyConfig.evaluations": 2,
  "ToyPolicyConfig.evaluation_rows": 32,
  "ToyPolicyConfig.prompts": 4,
  "ToySearchConfig.samples": 32,
  "ToySearchConfig.prompts": 2,
  "ToySearchConfig.sizes": "(1, 32)",
  "ToyPairConfig.epochs": 1,
  "ToyPairConfig.pairs": 32,
  "ToyTeacherConfig.prompts": 32,
  "ToyTeacherConfig.updates": 4,
  "toy_world.seeds": "(0,)",
}


def small(path, directory):
  """The command of a recipe's header with its last arm and one seed."""
  bindings = list(gin_reader.read(recipes_test.shown(path)))
  arms = next(b.value for b in bindings if b.field == "arms")
  changes = {
    **SMALL,
    "toy_world.arms": f"(@{arms[-1].scope}/{arms[-1].name}(),)",
  }
  used = {getattr(binding.value, "name", "toy_world") for binding in bindings}
  assert "ToyConfig" in used, "nothing would be small"
  sizes = [
    f"--gin.{name}={value}"
    for name, value in changes.items()
    if re.split(r"[/.]", name)[-2] in {"toy_world", *used}
  ]
  recipe = f"--gin_file={recipes_test.shown(path)}"
  return ["--job=toy_world", recipe, *sizes, f"--output_dir={directory}"]


@pytest.mark.parametrize(
  "path",
  [
    pytest.param(
      path,
      id=path.stem,
      marks=[] if path.stem in BY_DAY else testing.AT_NIGHT,
    )
    for path in RECIPES
  ],
)
def test_a_small_run_of_the_recipe(path, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(source.ROOT)
  command = small(path, tmp_path / "runs" / path.stem)
  assert main.main(command) == 0, (
    f"{shlex.join(command)}: {capsys.readouterr()}"
  )
  page = ["--job=report", f"--runs_dir={tmp_path / 'runs'}"]
  assert main.main([*page, f"--output_dir={tmp_path / 'page'}"]) == 0
  (arm,) = json.loads(
    (tmp_path / "runs" / path.stem / "result.json").read_text()
  )["arms"]
  assert f"| {arm} | 1 |" in (tmp_path / "page" / "tables.md").read_text()
