# SPDX-License-Identifier: Apache-2.0
"""Guards against recompilation and implicit transfers in a training loop."""

from __future__ import annotations

import collections
import contextlib
import threading
from typing import Hashable, Iterator

import jax
from jaxtyping import PyTree

# JAX's event of a compilation, or of a hit in its persistent cache.
_EVENT = "/jax/core/compile/backend_compile_duration"

# Number of compilations, by thread.
_COMPILED: collections.Counter[int] = collections.Counter()


def _note(event: str, duration: float, **kwargs: object) -> None:
  del duration, kwargs
  _COMPILED[threading.get_ident()] += event == _EVENT


# Registered for good: JAX cannot remove a single listener.
jax.monitoring.register_event_duration_secs_listener(_note)


def signature(batch: PyTree) -> Hashable:
  """Returns the structure, shapes and dtypes of a batch; hashable."""
  leaves, tree = jax.tree.flatten(batch)
  return tree, tuple((x.shape, x.dtype) for x in leaves)


@contextlib.contextmanager
def no_recompilation(name: str, is_warm: bool) -> Iterator[None]:
  """Forbids implicit transfers and, if `is_warm`, compilation in a step.

  A step compiles in its first call, and once more if the sharding of its
  outputs differs from that of its inputs. Explicit transfers
  (`jax.device_put`) are allowed.

  Raises:
    AssertionError: if a program was compiled.
    jax.errors.JaxRuntimeError: if an array was transferred implicitly.
  """
  thread = threading.get_ident()
  before = _COMPILED[thread]
  with jax.transfer_guard("disallow"):
    yield
  compiled = _COMPILED[thread] - before
  assert not (is_warm and compiled), (
    f"{name} compiled {compiled} program(s) again; the shape or dtype of its "
    "batch differs from the earlier ones"
  )
