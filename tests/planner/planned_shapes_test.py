# SPDX-License-Identifier: Apache-2.0
"""What is planned: numbers of rows, shapes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.planner import planned_shapes
from rlaif_jax.models import architectures
from rlaif_jax.rl import algorithms
from tests.jobs import planned_programs_test as tiny


def mesh(text):
  return mesh_lib.make_mesh(text, jax.devices()[:8])


@pytest.mark.parametrize("counts", [{}, {"sft": -1, "reward": 2}])
def test_a_plan_of_nothing_is_an_error(counts):
  with pytest.raises(ValueError, match="plan at least one"):
    planned_shapes.Steps(**counts)


def test_rows_of_a_phase():
  rl = algorithms.RLConfig(algorithm="rloo", samples_per_prompt=2)
  recipe = tiny.recipe(rl=rl, reward_batch_size=4)
  assert [recipe.rows(p) for p in planned_shapes.PHASES] == [16, 4, 32]
  assert tiny.recipe().rows("reward") == 16


def test_rows_that_do_not_divide_are_named():
  recipe = tiny.recipe(reward_batch_size=4)
  assert recipe.misfit("sft", mesh("data:8")) == ""
  said = recipe.misfit("reward", mesh("data:2,fsdp:4"))
  assert said == "4 rows do not divide by 8 data devices"
  assert recipe.misfit("reward", mesh("fsdp:4,model:2")) == ""
  parts = tiny.recipe(microbatches=4)
  said = parts.misfit("sft", mesh("data:8"))
  assert said == "16 rows in 4 microbatches do not divide by 8 data devices"


def test_what_is_read_may_be_of_another_type():
  shapes = planned_shapes.Shapes(
    tiny.recipe(read_dtype="bfloat16"), mesh("fsdp:8")
  )
  init = architectures.language(tiny.DECODER).init
  read, learned = shapes.read(init), shapes.learned(init)
  assert {x.dtype for x in jax.tree.leaves(read)} == {jnp.dtype("bfloat16")}
  assert {x.dtype for x in jax.tree.leaves(learned)} == {jnp.dtype("float32")}


def test_the_labelers_parts_are_its_whole_prompt():
  shapes = planned_shapes.Shapes(tiny.recipe(), mesh("data:8"))
  common, apart = shapes.rated_apart(architectures.language(tiny.DECODER))
  tokens, _ = shapes.rated()
  parts = (common.positions, apart.group_tokens, apart.suffix)
  assert sum(part.shape[1] for part in parts) == tokens.shape[1] == 48 + 12 + 8
