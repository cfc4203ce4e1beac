# SPDX-License-Identifier: Apache-2.0
"""Shapes of parameters and batches."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rlaif_jax.core import compute as compute_lib
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.models import architectures
from rlaif_jax.planner import shapes as shapes_lib
from tests import tiny_plan


def mesh(text):
  return mesh_lib.make_mesh(text, jax.devices()[:8])


def test_parameters_of_a_placement():
  shapes = shapes_lib.Shapes(tiny_plan.spec(), mesh("fsdp:8"))
  init = architectures.language(tiny_plan.DECODER).init
  whole = compute_lib.Placement(rules=(("embed", ""),), dtype="bfloat16")
  for placement, dtype, parts in (
    (None, "float32", 8),
    (whole, "bfloat16", 1),
  ):
    table = shapes.params(init, placement)["embedding"]["table"]
    assert table.dtype == jnp.dtype(dtype)
    shard = table.sharding.shard_shape(table.shape)
    assert shard == (table.shape[0], table.shape[1] // parts)


def test_shared_labeler_prompts_have_the_length_of_whole_ones():
  shapes = shapes_lib.Shapes(tiny_plan.spec(), mesh("data:8"))
  common, shared = shapes.shared_labeler_prompts(
    architectures.language(tiny_plan.DECODER)
  )
  tokens, _ = shapes.labeler_prompts()
  parts = (common.positions, shared.group_tokens, shared.suffix)
  assert sum(part.shape[1] for part in parts) == tokens.shape[1] == 48 + 12 + 8
