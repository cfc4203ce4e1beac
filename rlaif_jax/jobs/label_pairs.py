# SPDX-License-Identifier: Apache-2.0
"""Labels pairs: by a language model as in the paper, or by simulated humans.

Simulated humans are the known gold reward plus Bradley-Terry noise. They may
also write instructions (judge prompts with verdicts), from which `train_sft`
makes a small labeler.
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import numpy as np

from rlaif_jax.core import jsonl
from rlaif_jax.core import records
from rlaif_jax.core import rng
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.engine import metrics
from rlaif_jax.evaluation import agreement
from rlaif_jax.evaluation import gold
from rlaif_jax.jobs import loading
from rlaif_jax.labeling import backends
from rlaif_jax.labeling import judge
from rlaif_jax.labeling import store
from rlaif_jax.text import prompts


@dataclasses.dataclass(frozen=True, kw_only=True)
class InstructionConfig:
  """Judge prompts with verdicts, from human labels and ratings.

  Each pair gives `orders` pairwise prompts (2: both orders) and one rating
  prompt per candidate.
  """

  pairwise_template: str
  rating_template: str
  max_context_tokens: int
  orders: int = 2
"""A placeholder that the next edit fills."""
