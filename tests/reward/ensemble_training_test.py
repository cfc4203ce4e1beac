# SPDX-License-Identifier: Apache-2.0
"""Options of an ensemble on one trunk; its training is tested with the job."""

from __future__ import annotations

import pytest

from rlaif_jax.engine import optimizer
from rlaif_jax.reward import ensemble
from rlaif_jax.reward import ensemble_training

ADAM = optimizer.OptimizerConfig(name="adamw")


@pytest.mark.parametrize(
  "config, adapters, word",
  [
    (dict(kind="independent", members=2), None, "more_reward_dirs"),
    (dict(kind="heads", bootstrap=True), None, "bootstrap"),
    (dict(kind="heads"), ADAM, "adapters"),
    (dict(kind="lora"), None, "adapters"),
  ],
)
def test_options_that_conflict_are_named(config, adapters, word):
  with pytest.raises(ValueError, match=word):
    ensemble_training.check(ensemble.EnsembleConfig(**config), adapters)
