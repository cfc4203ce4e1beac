# SPDX-License-Identifier: Apache-2.0
"""What a step in a loop may not do: compile again, or visit the host."""

from __future__ import annotations

import collections
import contextlib
import threading
from typing import Any, Iterator

import jax

# What JAX calls a compilation, also one that its cache on disk answers.
_EVENT = "/jax/core/compile/backend_compile_duration"

# How many there were, by thread: others may compile meanwhile.
_COMPILED: collections.Counter[int] = collections.Counter()


def _note(event: str, duration: float, **kwargs: Any) -> None:
  del duration, kwargs
  _COMPILED[threading.get_ident()] += event == _EVENT


# For good: JAX has no way to take a single listener off again.
jax.monitoring.register_event_duration_secs_listener(_note)


def shape_of(batch: Any) -> Any:
  """What a compiled program depends on, of a batch; may be a key."""
  leaves, tree = jax.tree.flatten(batch)
  return tree, tuple((x.shape, x.dtype) for x in leaves)


@contextlib.contextmanager
def steady(name: str, is_steady: bool) -> Iterator[None]:
  """Around a step: no implicit transfer and, where `is_steady`, no compiling.

  A step compiles in its first call, and once more where the first one's
  outputs lie otherwise than its inputs did; after that every call costs
  compute alone. Explicit transfers (`jax.device_put`) are let through.

  Raises:
    AssertionError: something was compiled.
    jax.errors.JaxRuntimeError: something was transferred implicitly.
  """
  thread = threading.get_ident()
  before = _COMPILED[thread]
  with jax.transfer_guard("disallow"):
    yield
  compiled = _COMPILED[thread] - before
  assert not (is_steady and compiled), (
    f"{name} compiled {compiled} program(s) again; its batch has another shape "
    "or type than those before"
  )
