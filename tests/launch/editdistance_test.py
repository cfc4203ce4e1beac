# SPDX-License-Identifier: Apache-2.0
"""The stand-in for editdistance agrees with the package and the definition."""

from __future__ import annotations

import functools
import importlib.util
import itertools
import pathlib

import pytest

PATH = pathlib.Path(__file__).parents[2] / "launch/editdistance/editdistance.py"


@pytest.fixture(scope="module")
def stand_in():
  spec = importlib.util.spec_from_file_location("stand_in", PATH)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@functools.cache
def definition(a: str, b: str) -> int:
  if not a or not b:
    return len(a) + len(b)
  return min(
    definition(a[1:], b) + 1,
    definition(a, b[1:]) + 1,
    definition(a[1:], b[1:]) + (a[0] != b[0]),
  )


def words():
  for length in range(4):
    yield from map("".join, itertools.product("ab", repeat=length))
  yield from ("kitten", "sitting", "rlaif_tldr")


def test_distances_are_the_definition(stand_in):
  for a, b in itertools.product(words(), repeat=2):
    assert stand_in.eval(a, b) == definition(a, b)
    for threshold in (0, 1, 2):
      near = stand_in.distance_le_than(a, b, threshold)
      assert near == (definition(a, b) <= threshold)


def test_it_has_the_functions_of_the_package(stand_in):
  package = pytest.importorskip("editdistance")
  for name in ("eval", "distance", "eval_criterion", "distance_le_than"):
    assert hasattr(package, name) and hasattr(stand_in, name)
  for a, b in itertools.product(words(), repeat=2):
    assert stand_in.eval(a, b) == package.eval(a, b)
