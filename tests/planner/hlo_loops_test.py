# SPDX-License-Identifier: Apache-2.0
"""Trip counts of loops, in text and in the output of compilers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from rlaif_jax.planner import hlo_loops
from rlaif_jax.planner import hlo_text

LOOP = """%test (s: (s32[], f32[4])) -> pred[] {{
  %s = (s32[], f32[4]) parameter(0)
  %limit = s32[] {limit}
  %at = s32[] get-tuple-element(%s), index=0
  ROOT %less = pred[] compare(%at, %limit), direction={direction}
}}

%body (t: (s32[], f32[4])) -> (s32[], f32[4]) {{
  %t = (s32[], f32[4]) parameter(0)
  %one = s32[] constant({step})
  %now = s32[] get-tuple-element(%t), index={index}
  %kept = s32[] copy(%now)
  %next = s32[] add({added})
  %v = f32[4] get-tuple-element(%t), index=1
  %sum = f32[4] add(%v, %v)
  ROOT %both = (s32[], f32[4]) tuple(%next, %sum)
}}

ENTRY %main (p: f32[4]) -> (s32[], f32[4]) {{
  %p = f32[4] parameter(0)
  %first = s32[] constant(2)
  %start = s32[] copy(%first)
  %begin = (s32[], f32[4]) tuple(%start, %p)
  ROOT %w = (s32[], f32[4]) while(%begin), condition=%test, body=%body{config}
}}
"""


def counter(limit, **changes):
  """A loop from 2 to `limit`, each iteration of which is five additions."""
  settings = {
    "limit": limit,
    "direction": "LT",
    "step": 1,
    "index": 0,
    "added": "%kept, %one",
    "config": "",
  }
  return LOOP.format(**{**settings, **changes})


def trip_count(text):
  module = hlo_text.parse(text)
  ((computation, loop),) = (
    (computation, one)
    for computation in module.computations.values()
    for one in computation.instructions.values()
    if one.op == "while"
  )
  return hlo_loops.known_trip_count(module.computations, computation, loop)


@pytest.mark.parametrize(
  "limit, step, expected", [(12, 1, 10), (12, 3, 4), (2, 1, 0), (1, 1, 0)]
)
def test_trip_counts_of_counters(limit, step, expected):
  assert trip_count(counter(f"constant({limit})", step=step)) == expected
  swapped = counter(f"constant({limit})", step=step, added="%one, %kept")
  assert trip_count(swapped) == expected


def test_annotated_trip_counts():
  config = ', backend_config={"known_trip_count":{"n":"6"}}'
  assert trip_count(counter("parameter(1)", config=config)) == 6


@pytest.mark.parametrize(
  "changes",
  [
    {"limit": "parameter(1)"},
    {"limit": "constant(true)"},
    {"direction": "NE"},
    {"step": 0},
    {"index": 1},
    {"added": "%kept, %kept"},
  ],
)
def test_loops_of_unknown_trip_count(changes):
  assert trip_count(counter(**{"limit": "constant(12)", **changes})) is None


def test_trip_counts_of_the_loops_of_jax():
  def scan(x):
    return jax.lax.scan(lambda x, _: (jnp.sin(x), None), x, length=70)[0]

  def until(x):
    return jax.lax.while_loop(lambda x: x[0] < 9, lambda x: x + 1, x)

  for function, expected in ((scan, 70), (until, None)):
    text = jax.jit(function).lower(jnp.zeros(4)).compile().as_text()
    assert trip_count(text) == expected
