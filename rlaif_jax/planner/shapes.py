# SPDX-License-Identifier: Apache-2.0
"""The arrays of a planned run, as shapes with shardings."""

from __future__ import annotations

import dataclasses
from typing import Any, Callable

import jax
import jax.numpy as jnp

from rlaif_jax.core import batches
from rlaif_jax.core import protocols
from rlaif_jax.engine import decode
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.engine import scoring
from rlaif_jax.models import architectures
from rlaif_jax.planner import run_spec

Init = Callable[[jax.Array], Any]


class Shapes:
  """Shapes of parameters and batches; batches are sharded over their rows.

  Attributes:
    spec: the run that is planned.
    mesh: the mesh that the shardings refer to.
    prompt: columns of a prompt; the text around a context is part of them.
    key: shape of a random key.
    frozen_options: how models run that are not updated.
    trained_options: how models run that are updated.
  """

  def __init__(self, spec: run_spec.RunSpec, mesh: jax.sharding.Mesh):
    self.spec = spec
    self.mesh = mesh
    self._rows = mesh_lib.batch_sharding(mesh)
    self.prompt = spec.sequence.max_context
    self.key = jax.eval_shape(lambda: jax.random.key(0))
    self.frozen_options = architectures.Execution(
      split_by=mesh_lib.activation_sharding(mesh)
    )
    self.trained_options = dataclasses.replace(
      self.frozen_options,
      remat=spec.compute.remat,
      scan_layers=spec.compute.scan_layers,
    )

  def trained_params(self, init: Init) -> Any:
    """Returns the parameters of a model that is updated."""
    return mesh_lib.abstract_params(init, self.mesh)

  def frozen_params(self, init: Init) -> Any:
    """Returns the parameters of a model that is not updated."""
    placement = mesh_lib.Placement(dtype=self.spec.models.frozen_dtype)
    return mesh_lib.abstract_params(init, self.mesh, placement)

  def rollout_params(self, init: Init) -> Any:
    """Returns the parameters that the policy samples with."""
    if self.spec.models.rollout is None:
      return self.trained_params(init)
    return mesh_lib.abstract_params(init, self.mesh, self.spec.models.rollout)

  def array(self, *shape: int, dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
    """Returns an array whose first axis is rows."""
    return jax.ShapeDtypeStruct(shape, dtype, sharding=self._rows)

  def tokens(self, rows: int, response: int) -> batches.TokenBatch:
    """Returns prompts with responses of `response` tokens."""
    columns = self.prompt + response
    return batches.TokenBatch(
      tokens=self.array(rows, columns),
      valid=self.array(rows, columns, dtype=jnp.bool_),
      weights=self.array(rows, response, dtype=jnp.float32),
    )

  def prompts(self, rows: int) -> batches.PromptBatch:
    """Returns prompts of the policy."""
    prompt = self.array(rows, self.prompt)
    valid = self.array(rows, self.prompt, dtype=jnp.bool_)
    return batches.PromptBatch(
      prompt=prompt,
      prompt_valid=valid,
      context=prompt,
      context_valid=valid,
      row=self.array(rows),
    )

  def samples(self, rows: int) -> decode.Sampled:
    """Returns sampled responses."""
    shape = (rows, self.spec.sampling.max_tokens)
    return decode.Sampled(
      response=self.array(*shape),
      mask=self.array(*shape, dtype=jnp.float32),
      log_probs=self.array(*shape, dtype=jnp.float32),
    )

  def group(self) -> batches.GroupBatch:
    """Returns the prompts of a rollout with their responses."""
    rows = self.spec.phases.batch_size
    prompt = (rows, self.prompt)
    response = (
      rows,
      self.spec.rl.samples_per_prompt,
      self.spec.sampling.max_tokens,
    )
    return batches.GroupBatch(
      prompt=self.array(*prompt),
      prompt_valid=self.array(*prompt, dtype=jnp.bool_),
      response=self.array(*response),
      response_valid=self.array(*response, dtype=jnp.bool_),
    )

  def labeler_prompts(
    self,
  ) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """Returns tokens and valid of the labeler's whole prompts."""
    spec = self.spec
    columns = self.prompt + spec.sampling.max_tokens
    columns += spec.models.labeler_tokens
    rows = spec.rows("policy")
    return (
      self.array(rows, columns),
      self.array(rows, columns, dtype=jnp.bool_),
    )

  def shared_labeler_prompts(
    self, model: protocols.LanguageModel
  ) -> tuple[Any, batches.SharedBatch]:
    """Returns the labeler's prompts as `labeling.llm_reward` reads them.

    Each shared part is read once. Almost all of the constant text precedes the
    context; its cache is computed once per run and replicated.
    """
    spec = self.spec
    constant = spec.models.labeler_tokens
    rows, ending = spec.rows("policy"), min(8, constant - 1)
    replicated = mesh_lib.replicated(self.mesh)
    prefix = (spec.phases.batch_size, self.prompt)
    suffix = (rows, spec.sampling.max_tokens + ending)
    text = jax.ShapeDtypeStruct((1, constant - ending), jnp.int32)
    cache = jax.eval_shape(
      lambda params, tokens: scoring.read_common(
        model, params, tokens, tokens >= 0
      ),
      self.frozen_params(model.init),
      text,
    )
    common = jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(
        leaf.shape, leaf.dtype, sharding=replicated
      ),
      cache,
    )
    return common, batches.SharedBatch(
      prefixes=self.array(*prefix),
      prefix_valid=self.array(*prefix, dtype=jnp.bool_),
      owner=self.array(rows),
      suffixes=self.array(*suffix),
      suffix_valid=self.array(*suffix, dtype=jnp.bool_),
    )

  def pairs(self, rows: int) -> batches.PairBatch:
    """Returns the pairs of an update of the reward model."""
    response = self.spec.sequence.max_response
    number = self.array(rows, dtype=jnp.float32)
    return batches.PairBatch(
      first=self.tokens(rows, response),
      second=self.tokens(rows, response),
      label=number,
      weight=number,
    )

  def rollout(
    self, rows: int
  ) -> tuple[batches.Rollout, jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """Returns the batch of a policy update: rollout, advantages, targets."""
    response = self.spec.sampling.max_tokens
    number = self.array(rows, response, dtype=jnp.float32)
    prompts = self.prompts(rows)
    return (
      batches.Rollout(
        prompts=prompts,
        response=self.array(rows, response),
        mask=number,
        log_probs=number,
        ref_log_probs=number,
        values=number,
        score=self.array(rows, dtype=jnp.float32),
      ),
      number,
      number,
    )
