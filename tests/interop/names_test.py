# SPDX-License-Identifier: Apache-2.0
"""Axes and names go there and come back."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.interop import buffers
from rlaif_jax.interop import names

RULES = [
  names.Rule("a/query/kernel", "q.weight", 1),
  names.Rule("a/out/kernel", "o.weight", 2),
  names.Rule("a/query/bias", "q.bias"),
  names.Rule("norm/scale", "norm.weight", shift=-1.0),
  names.Rule("bias/table", "relative", -1),
]
WANTED = {
  "a/query/kernel": (4, 3, 2),
  "a/out/kernel": (3, 2, 4),
  "a/query/bias": (3, 2),
  "norm/scale": (4,),
  "bias/table": (3, 8),
}
FOUND = {
  "q.weight": (6, 4),
  "o.weight": (4, 6),
  "q.bias": (6,),
  "norm.weight": (4,),
  "relative": (8, 3),
}


class Memory:
  def __init__(self):
    generator = np.random.default_rng(0)
    self.arrays = {n: generator.normal(size=s) for n, s in FOUND.items()}

  def shapes(self):
    return {name: array.shape for name, array in self.arrays.items()}

  def read(self, name, *, borrow=False):
    if not borrow:
      return self.arrays[name]
    scratch = buffers.scratch(self.arrays[name].shape, np.float64)
    scratch[...] = self.arrays[name]
    return scratch


def test_kernels_are_the_transposed_matrices():
  source = Memory()
  params = dict(names.fill(RULES, WANTED, source))
  x = np.arange(4.0)
  np.testing.assert_allclose(
    np.einsum("d,dhc->hc", x, params["a/query/kernel"]).ravel(),
    source.arrays["q.weight"] @ x,
  )
  y = np.arange(6.0)
  np.testing.assert_allclose(
    np.einsum("hc,hcd->d", y.reshape(3, 2), params["a/out/kernel"]),
    source.arrays["o.weight"] @ y,
  )
  np.testing.assert_allclose(
    params["norm/scale"], source.arrays["norm.weight"] - 1
  )


def test_there_and_back():
  source = Memory()
  by_name = {rule.ours: rule for rule in RULES}
  sizes = []
  for path, array in names.fill(RULES, WANTED, source):
    rule = by_name.pop(path)
    assert array.shape == WANTED[path]
    sizes.append(array.size)
    np.testing.assert_allclose(
      names.to_theirs(array, rule), source.arrays[rule.theirs], rtol=1e-12
    )
  assert not by_name and sizes == sorted(sizes, reverse=True)


def test_rotary_pairs_become_halves():
  """Channel 2 i of a head goes to i, channel 2 i + 1 to half a head later."""
  rule = names.Rule("q/kernel", "q", 1, rotary_heads=2)
  theirs = np.arange(8.0)[:, None]  # Two heads of four channels, one input.
  ours = names.to_ours(theirs, rule, (1, 2, 4))
  np.testing.assert_array_equal(ours[0], [[0, 2, 1, 3], [4, 6, 5, 7]])
  np.testing.assert_array_equal(names.to_theirs(ours, rule), theirs)


def test_a_whole_source_passes():
  names.check(RULES, WANTED, FOUND, where="here")


@pytest.mark.parametrize(
  "change, words",
  [
    ({"q.weight": None}, "here: tensor q.weight is missing"),
    ({"more": (1,)}, r"here: tensor more with shape \(1,\) is unexpected"),
    ({"o.weight": (6, 4)}, r"o.weight has shape \(6, 4\).*expects \(4, 6\)"),
    ({"q.bias": (3, 2)}, "q.bias has shape"),
  ],
)
def test_what_does_not_fit_is_named(change, words):
  found = {k: v for k, v in {**FOUND, **change}.items() if v is not None}
  with pytest.raises(ValueError, match=words):
    names.check(RULES, WANTED, found, where="here")


def test_ignored_tensors_may_be_there():
  found = {**FOUND, "copy": (1,)}
  names.check(
    RULES, WANTED, found, where="here", ignored=lambda name: name == "copy"
  )


def test_flat_and_nested():
  tree = {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
  flat = names.flatten(tree)
  assert flat == {"a/b": 1, "a/c/d": 2, "e": 3}
  assert names.unflatten(flat) == tree


@pytest.mark.parametrize(
  "dtype", [np.float32, np.float16, np.float64, jnp.bfloat16]
)
def test_every_value_is_checked(dtype):
  array = np.linspace(-1, 1, 3 * 70_000).astype(dtype).reshape(3, -1)
  array[0, 0] = np.finfo(np.float16).max
  names.check_finite("t", array)
  for bad, place in (
    (np.nan, (0, 5)),
    (np.inf, (2, 69_999)),
    (-np.inf, (1, 0)),
  ):
    broken = array.copy()
    broken[place] = bad
    with pytest.raises(
      ValueError, match=r"tensor t has the value -?(nan|inf) "
    ):
      names.check_finite("t", broken)
  names.check_finite("t", np.zeros((0, 2), dtype))
  names.check_finite("t", np.zeros((), dtype))
  names.check_finite("t", array.T)
