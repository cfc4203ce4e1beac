# SPDX-License-Identifier: Apache-2.0
"""The rollout's programs: one compilation of the prompts serves both."""

from __future__ import annotations

import jax
import pytest

from rlaif_jax.engine import decode
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.jobs import planned_rollout
from rlaif_jax.jobs import planned_shapes
from tests.jobs import planned_programs_test as tiny


def programs(**changes):
  mesh = mesh_lib.make_mesh("data:2,fsdp:2,model:2", jax.devices()[:8])
  shapes = planned_shapes.Shapes(tiny.recipe(**changes), mesh)
  made = planned_rollout.lowered(shapes)
  return [lowered(tiny.DECODER, False, 1) for lowered in made]


def test_keys_and_values_lie_as_the_prompts_left_them():
  prompts, token = programs()
  _, left = prompts.compile().output_shardings
  taken = token.compile().input_shardings[0][-1]
  assert jax.tree.leaves(taken)
  for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(taken), strict=True):
    assert a.is_equivalent_to(b, 4)


def test_prompts_are_compiled_once():
  prompts, token = programs()
  assert prompts.compile() is prompts.compile() is token._prompts.as_run


def test_a_token_goes_on_from_the_prompts_that_were_compiled(tmp_path):
  prompts, token = programs()
  changed = prompts.compile({"xla_cpu_enable_fast_math": True})
  written = prompts.compile({"xla_dump_to": str(tmp_path)})
  assert written is prompts.compile() is token._prompts.as_run is not changed


@pytest.mark.parametrize(
  "changes, same",
  [
    ({}, True),
    ({"batch_size": 8}, False),
    ({"sampling": decode.SamplingConfig(max_tokens=12, top_k=3)}, False),
  ],
  ids=["nothing", "rows", "sampling"],
)
def test_the_text_of_a_token_tells_what_it_is(changes, same):
  """What its cost is kept by; nothing is compiled for it."""
  _, one = programs()
  _, other = programs(**changes)
  assert (one.as_text() == other.as_text()) is same
