# SPDX-License-Identifier: Apache-2.0
"""Help comes from docstrings and signatures."""

from __future__ import annotations

import pytest

from rlaif_jax.cli import job_help
from rlaif_jax.jobs import train_sft


def test_a_job_is_described_with_its_configs():
  text = job_help.describe("train_sft", train_sft.run)
  assert text.startswith("--job=train_sft\n\nSupervised fine-tuning")
  assert "  train_sft.train: TrainConfig = TrainConfig(epochs=1.0)" in text
  assert "  TrainConfig.batch_size: PositiveInt = 128" in text
  assert "  LoraConfig.rank: PositiveInt = 8" in text
  assert "T5Config: Sizes of an encoder-decoder." in text


def test_first_lines_need_no_import():
  line = job_help.first_line("rlaif_jax.jobs.train_sft")
  assert line.startswith("Supervised fine-tuning")
  with pytest.raises(ValueError, match="rlaif_jax.nothing"):
    job_help.first_line("rlaif_jax.nothing")
