# SPDX-License-Identifier: Apache-2.0
"""Shapes of parameters and batches."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.models import architectures
from rlaif_jax.planner import shapes as shapes_lib
from tests import tiny_plan


def mesh(text):
  return mesh_lib.make_mesh(text, jax.devices()[:8])


def test_frozen_parameters_may_have_another_dtype():
  shapes = shapes_lib.Shapes(
    tiny_plan.spec(frozen_dtype="bfloat16"), mesh("fsdp:8")
  )
  init = architectures.language(tiny_plan.DECODER).init
  frozen, trained = shapes.frozen_params(init), shapes.trained_params(init)
  assert {x.dtype for x in jax.tree.leaves(frozen)} == {jnp.dtype("bfloat16")}
  assert {x.dtype for x in jax.tree.leaves(trained)} == {jnp.dtype("float32")}


def test_the_labelers_parts_are_its_whole_prompt():
  shapes = shapes_lib.Shapes(tiny_plan.spec(), mesh("data:8"))
  common, shared = shapes.shared_labeler_prompts(
    architectures.language(tiny_plan.DECODER)
  )
  tokens, _ = shapes.labeler_prompts()
  parts = (common.places, shared.prefixes, shared.suffixes)
  assert sum(part.shape[1] for part in parts) == tokens.shape[1] == 48 + 12 + 8
