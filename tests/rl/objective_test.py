# SPDX-License-Identifier: Apache-2.0
"""Values that are not set are the algorithm's; bad ones are named."""

from __future__ import annotations

import pytest

from rlaif_jax.rl import algorithms
from rlaif_jax.rl import objective


def test_options_that_are_not_set_are_the_algorithms():
  config = algorithms.RLConfig(
    algorithm="dapo",
    samples_per_prompt=2,
    ratio=objective.RatioConfig(low=0.1),
  )
  ratio = config.objective.ratio
  assert (ratio.low, ratio.high, ratio.level) == (0.1, 0.28, "token")
  assert config.objective.beta == 0.0
  assert algorithms.RLConfig().objective.beta == 0.05


def test_no_value_of_an_objective_is_open():
  for row in algorithms.ALGORITHMS.values():
    found = row.objective
    assert None not in vars(found.ratio).values()
    assert None not in vars(found.value).values()


@pytest.mark.parametrize(
  "make, word",
  [
    (lambda: objective.RatioConfig(dual=0.5), "above 1"),
    (lambda: objective.RatioConfig(limit=0.5), "limit"),
    (lambda: objective.RatioConfig(correction="some"), "correction"),
    (lambda: objective.ValueConfig(gamma=2.0), "gamma"),
  ],
)
def test_bad_values_are_named(make, word):
  with pytest.raises(ValueError, match=word):
    make()
