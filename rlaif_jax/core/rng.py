# SPDX-License-Identifier: Apache-2.0
"""Named random streams: a key is a function of (seed, name, step)."""

from __future__ import annotations

import hashlib

import jax
import numpy as np


def _name_hash(name: str) -> int:
  digest = hashlib.sha256(name.encode("utf-8")).digest()
  return int.from_bytes(digest[:4], "little")


def key(seed: int, name: str, step: int | jax.Array = 0) -> jax.Array:
  """Returns the JAX key of a named stream at a step."""
  return jax.random.fold_in(
    jax.random.fold_in(jax.random.key(seed), np.uint32(_name_hash(name))), step
  )


def numpy_generator(seed: int, name: str, step: int = 0) -> np.random.Generator:
  """Returns the NumPy generator of a named stream at a step."""
  return np.random.default_rng([seed, _name_hash(name), step])
