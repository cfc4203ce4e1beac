# SPDX-License-Identifier: Apache-2.0
"""The encoder against a NumPy twin; padding and other rows change nothing."""

from __future__ import annotations

import math

import jax
import numpy as np
import pytest

from rlaif_jax.models import bert

CONFIG = bert.BertConfig(
  vocab_size=19,
  width=12,
  num_layers=2,
  num_heads=3,
  mlp_dim=20,
  max_length=9,
)
ENCODER = bert.BertEncoder(CONFIG)


@pytest.fixture(scope="module")
def params():
  """Random parameters, also where initialization gives zeros or ones."""
  generator = np.random.default_rng(0)
  return jax.tree.map(
    lambda leaf: generator.normal(0, 0.5, leaf.shape).astype(np.float32),
    bert.shapes(CONFIG),
  )


def embed(params, rows, valid):
  rows, valid = np.asarray(rows, np.int32), np.asarray(valid, bool)
  return np.asarray(ENCODER.apply({"params": params}, rows, valid))


def norm(x, p):
  x = x - x.mean(-1, keepdims=True)
  return (
    x / np.sqrt((x**2).mean(-1, keepdims=True) + CONFIG.norm_epsilon)
  ) * p["scale"] + p["bias"]


def linear(x, p):
  return np.tensordot(x, p["kernel"], 1) + p["bias"]


def twin(params, tokens):
  """One text without padding, in float64 and from the definition."""
  p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
  x = p["tokens"]["table"][tokens] + p["positions"][: len(tokens)]
  x = norm(x + p["types"][0], p["norm"])
  for number in range(CONFIG.num_layers):
    own = p[f"blocks_{number}"]
    query, key, value = (linear(x, own[n]) for n in ("query", "key", "value"))
    mixed = np.zeros_like(query)
    for head in range(CONFIG.num_heads):
      scores = query[:, head] @ key[:, head].T / math.sqrt(query.shape[-1])
      weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
      mixed[:, head] = weights @ value[:, head]
    out = np.tensordot(mixed, own["out"]["kernel"], 2) + own["out"]["bias"]
    x = norm(x + out, own["attention_norm"])
    hidden = linear(x, own["up"])
    hidden *= 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
    x = norm(x + linear(hidden, own["down"]), own["mlp_norm"])
  mean = x.mean(0)
  return mean / np.linalg.norm(mean)


@pytest.mark.parametrize("tokens", [[3], [3, 1, 4, 1], list(range(9))])
def test_it_computes_what_the_twin_computes(params, tokens):
  found = embed(params, [tokens], [[True] * len(tokens)])[0]
  np.testing.assert_allclose(found, twin(params, tokens), atol=2e-6)


def test_padding_and_other_rows_change_nothing(params):
  alone = embed(params, [[3, 1, 4]], [[True] * 3])[0]
  valid = [[True] * 3 + [False] * 3, [True] * 6, [False] * 6]
  rows = [[3, 1, 4, 7, 8, 9], [5, 2, 6, 5, 3, 5], [0] * 6]
  batch = embed(params, rows, valid)
  np.testing.assert_allclose(batch[0], alone, atol=1e-6)
  rows[0][3:] = [11, 12, 13]
  rows[1] = [1] * 6
  np.testing.assert_array_equal(embed(params, rows, valid)[0], batch[0])
  assert np.isfinite(batch[2]).all() and not batch[2].any()
  np.testing.assert_allclose(np.linalg.norm(batch[:2], axis=1), 1, atol=1e-6)


def test_order_of_tokens_matters(params):
  rows, valid = [[3, 1, 4], [4, 1, 3]], [[True] * 3] * 2
  one, other = embed(params, rows, valid)
  assert np.abs(one - other).max() > 1e-3


def test_heads_must_divide_the_width():
  with pytest.raises(ValueError, match="num_heads is 5"):
    bert.BertConfig(
      vocab_size=3,
      width=12,
      num_layers=1,
      num_heads=5,
      mlp_dim=4,
      max_length=4,
    )
