# SPDX-License-Identifier: Apache-2.0
"""A checkable task of judging: the better response has a cat in it."""

from __future__ import annotations

import pathlib

import numpy as np

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.labeling import pairwise_judge

TEMPLATE = """
name = "short"
kind = "pairwise"
preamble = "read\\n"
sample = "{context}\\n1\\n{first}\\n2\\n{second}\\n"
ending = "A=\\n"
cot_ending = "W=\\n"
options = ["1", "2"]
"""
GOOD = ("a cat", "the cat sat", "one cat")
BAD = ("a hat", "ten dogs", "the mat")


def config(directory: pathlib.Path, **changes):
  """A pairwise judge whose prompt fits the models of the tiny world."""
  path = directory / "short.toml"
  path.write_text(TEMPLATE)
  settings = {"template": str(path), "max_context_tokens": 120}
  return pairwise_judge.PairwiseJudgeConfig(**{**settings, **changes})


def labels(n: int, seed: int = 0) -> list[records.Preference]:
  """n human labels."""
  generator = np.random.default_rng(seed)
  rows = []
  for i in range(n):
    texts = [str(generator.choice(side)) for side in (GOOD, BAD)]
    swap = bool(generator.integers(2))
    rows.append(
      records.Preference(
        id=f"{seed}-{i}",
        context=str(generator.choice(["the cat sat", "one red hat"])),
        first=texts[swap],
        second=texts[not swap],
        p_first=float(not swap),
        labeler="human",
      )
    )
  return rows


def write(directory: pathlib.Path, n: int, seed: int = 0) -> str:
  """Writes n human labels; returns the path."""
  path = directory / f"labels_{seed}.jsonl"
  jsonl.write_records(path, labels(n, seed))
  return str(path)
