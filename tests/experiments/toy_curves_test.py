# SPDX-License-Identifier: Apache-2.0
"""Numbers over seeds by hand."""

from __future__ import annotations

import math

import numpy as np

from rlaif_jax.experiments import toy_curves


def rows():
  found = []
  for arm, lift in (("a", 0.0), ("b", 1.0)):
    for seed, end in ((0, 1.0), (1, 4.0)):
      for step, (kl, gold) in enumerate([(0, 0), (2, 3), (1, 2), (4, end)]):
        found.append(
          {
            "arm": arm,
            "seed": seed,
            "stage": "policy",
            "step": step,
            "kl": float(kl),
            "gold": gold + lift,
          }
        )
  return found


def test_a_measure_is_mean_and_standard_error():
  found = toy_curves.measure([1.0, 3.0, math.nan])
  # Deviation sqrt(2), over the root of two seeds.
  assert (found.mean, found.n) == (2.0, 2)
  np.testing.assert_allclose(found.error, 1.0)
  assert str(found) == "2.00 ± 1.00"
  assert str(toy_curves.measure([math.nan])) == "-"
  assert str(toy_curves.measure([2.0])) == "2.00"


def test_gold_at_a_kl_is_where_the_path_first_gets_there():
  kl, gold = [0.0, 2.0, 1.0, 4.0], [0.0, 3.0, 2.0, 1.0]
  assert toy_curves.at_kl(kl, gold, 1.0) == 1.5  # Not the 2.0 on the way back.
  assert toy_curves.at_kl(kl, gold, 0.0) == 0.0
  np.testing.assert_allclose(toy_curves.at_kl(kl, gold, 3.0), 2 - 2 / 3)
  assert math.isnan(toy_curves.at_kl(kl, gold, 5.0))


def test_best_end_and_differences_within_seeds():
  end = toy_curves.last("gold")
  ours = toy_curves.path_values(rows(), "b", end)
  theirs = toy_curves.path_values(rows(), "a", end)
  assert ours == {0: 2.0, 1: 5.0}
  gap = toy_curves.difference(ours, theirs)
  # Both seeds differ by 1: no error, though the seeds themselves differ by 3.
  assert (gap.mean, gap.error, gap.n) == (1.0, 0.0, 2)
  best = toy_curves.path_values(rows(), "a", toy_curves.best)
  assert best == {0: 3.0, 1: 4.0}


def test_a_curve_has_a_point_for_each_measurement():
  paths = toy_curves.paths(rows(), "a")
  points = toy_curves.curve(paths, "gold")
  assert [kl for kl, _ in points] == [0.0, 2.0, 1.0, 4.0]
  assert points[-1][1].mean == 2.5
  assert toy_curves.curve(paths, "proxy") == []
  assert toy_curves.curve({}, "gold") == []


def test_an_arm_without_a_policy_goes_by_its_best_of_n():
  search = [
    {"arm": arm, "seed": 0, "stage": "search", "n": n, "kl": n / 4, "gold": n}
    for arm in ("a", "c")
    for n in (4, 8)
  ]
  found = rows() + search
  assert len(toy_curves.paths(found, "a")[0]) == 4
  assert toy_curves.paths(found, "c") == {0: search[2:]}
  value = toy_curves.at("gold", 1.5)
  assert toy_curves.path_values(found, "c", value) == {0: 6.0}


def test_search_values():
  found = [
    {"arm": "a", "seed": 0, "stage": "search", "n": n, "gold": n / 2}
    for n in (1, 4)
  ]
  assert toy_curves.search_values(found, "a", 4) == {0: 2.0}
  assert toy_curves.arms_of(found + rows()) == ["a", "b"]
