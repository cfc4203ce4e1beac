# SPDX-License-Identifier: Apache-2.0
"""Every value of a run is written, nested configs under scopes of their own."""

from __future__ import annotations

import dataclasses

from rlaif_jax.cli import gin_writer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
  x: float = 1.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer:
  inner: Inner
  many: tuple[Inner, ...] = ()


def run(*, output_dir: str, a: Outer, b: Outer, limit: float, name: str = "n"):
  del output_dir, a, b, limit, name


def test_text_is_complete_and_scoped():
  text = gin_writer.render(
    "job",
    run,
    {
      "a": Outer(inner=Inner(x=2.0)),
      "b": Outer(inner=Inner(), many=(Inner(x=7.0),)),
      "limit": float("inf"),
    },
  )
  assert text == (
    "job.a = @a/Outer()\n"
    "job.b = @b/Outer()\n"
    "# job.limit = inf\n"
    "job.name = 'n'\n"
    "\n"
    "a/Outer.inner = @a_inner/Inner()\n"
    "a/Outer.many = ()\n"
    "\n"
    "a_inner/Inner.x = 2.0\n"
    "\n"
    "b/Outer.inner = @b_inner/Inner()\n"
    "b/Outer.many = (@b_many_0/Inner(),)\n"
    "\n"
    "b_inner/Inner.x = 1.5\n"
    "\n"
    "b_many_0/Inner.x = 7.0\n"
  )
