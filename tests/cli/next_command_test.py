# SPDX-License-Identifier: Apache-2.0
"""The suggested next command."""

from __future__ import annotations

from rlaif_jax.cli import command_line
from rlaif_jax.cli import next_command


def test_a_jobs_advice_is_the_next_command():
  command = command_line.Command(job="train_sft", output_dir="runs/a")
  table = {"train_sft": None, "sample": None}
  assert next_command.suggest(command, [], table, "do this") == "do this"
  recipe = "gin_configs/recipes/docstring_sft.gin"
  command = command_line.Command(
    job="train_sft", output_dir="runs/a", gin_files=[recipe]
  )
  said = next_command.suggest(command, [], table, "do this")
  assert said.startswith("python -m rlaif_jax.main --job=sample")
