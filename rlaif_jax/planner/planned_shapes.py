# SPDX-License-Identifier: Apache-2.0
"""What is planned, and its arrays as shapes on a mesh that need not be here."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from rlaif_jax.core import compute as compute_lib
from rlaif_jax.core import batches
from rlaif_jax.core import protocols
from rlaif_jax.data import converters
from rlaif_jax.engine import decode
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.engine import optimizer as optimizer_lib
from rlaif_jax.engine import scoring
from rlaif_jax.models import architectures
from rlaif_jax.rl import algorithms

PHASES = ("sft", "reward", "policy")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Steps:
  """How many updates each phase of a run makes (0: it is not planned)."""

  sft: int = 0
  reward: int = 0
  policy: int = 0

  def __post_init__(self):
    counts = (self.sft, self.reward, self.policy)
    if min(counts) < 0 or not any(counts):
      raise ValueError(
        f"Steps of sft, reward and policy are {counts}; plan at least one "
        "update, and no negative number"
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
  """What is planned; the arguments of `run` that shape programs."""

  model: architectures.Config
  reward_model: architectures.Config
  labeler: architectures.Config | None
  rating_tokens: int
  sequence: converters.SequenceConfig
  sampling: decode.SamplingConfig
  rl: algorithms.RLConfig
  optimizer: optimizer_lib.OptimizerConfig
  batch_size: int
  reward_batch_size: int
  read_dtype: str
  rollout: compute_lib.Placement | None
  microbatches: int
  remat: str
  scan_layers: bool

  def rows(self, phase: str) -> int:
    """Rows of an update of the phase."""
    if phase == "reward":
      return self.reward_batch_size or self.batch_size
    samples = self.rl.samples_per_prompt if phase == "policy" else 1
    return self.batch_size * samples

  def misfit(self, phase: str, mesh: jax.sharding.Mesh) -> str:
    """Why the rows of an update do not divide on this mesh; "" if they do."""
    devices = mesh.shape["data"] * mesh.shape["fsdp"]
    rows = self.rows(phase) if phase == "reward" else self.batch_size
    if rows % (devices * self.microbatches) == 0:
      return ""
    parts = f" in {self.microbatches} microbatches"
    return (
      f"{rows} rows{parts if self.microbatches > 1 else ''} do not divide by "
      f"{devices} data devices"
    )


class Shapes:
  """Abstract arrays on a mesh: batches split over their rows."""

  def __init__(self, recipe: Recipe, mesh: jax.sharding.Mesh):
    self.recipe = recipe
    self.mesh = mesh
    self._rows = mesh_lib.batch_sharding(mesh)
    s = recipe.sequence
    # Room for the constant text around a context is part of the prompt.
    self.prompt = s.max_context
    self.key = jax.eval_shape(lambda: jax.random.key(0))
    # Of models that are only read.
    self.how_read = architectures.Execution(
      split_by=mesh_lib.activation_sharding(mesh)
    )

  @property
  def how(self) -> architectures.Execution:
    """Of models that are updated."""
    recipe = self.recipe
    return dataclasses.replace(
      self.how_read, remat=recipe.remat, scan_layers=recipe.scan_layers
    )

  def learned(self, init: Any) -> Any:
    """Parameters that are updated."""
    return mesh_lib.abstract_params(init, self.mesh)

  def read(self, init: Any) -> Any:
    """Parameters of a model that is only read."""
    placement = compute_lib.Placement(dtype=self.recipe.read_dtype)
    return mesh_lib.abstract_params(init, self.mesh, placement)

  def sampled(self, init: Any) -> Any:
    """Parameters of the policy while it samples."""
    if self.recipe.rollout is None:
      return self.learned(init)
    return mesh_lib.abstract_params(init, self.mesh, self.recipe.rollout)

  def array(self, *shape: int, dtype: Any = jnp.int32) -> Any:
    """An array whose first axis is rows."""
    return jax.ShapeDtypeStruct(shape, dtype, sharding=self._rows)

  def tokens(self, rows: int, response: int) -> batches.TokenBatch:
    """Prompts with responses of so many tokens."""
    columns = self.prompt + response
    return batches.TokenBatch(
      tokens=self.array(rows, columns),
      valid=self.array(rows, columns, dtype=jnp.bool_),
      weights=self.array(rows, response, dtype=jnp.float32),
    )

  def prompts(self, rows: int) -> batches.PromptBatch:
    """Prompts of a policy."""
    prompt = self.array(rows, self.prompt)
    valid = self.array(rows, self.prompt, dtype=jnp.bool_)
    return batches.PromptBatch(
      prompt=prompt,
      prompt_valid=valid,
      context=prompt,
      context_valid=valid,
      row=self.array(rows),
    )

  def drawn(self, rows: int) -> decode.Samples:
    """Responses to them."""
    shape = (rows, self.recipe.sampling.max_tokens)
    return decode.Samples(
      response=self.array(*shape),
      mask=self.array(*shape, dtype=jnp.float32),
      log_probs=self.array(*shape, dtype=jnp.float32),
    )

  def group(self) -> batches.GroupBatch:
    """The texts of a rollout."""
    recipe = self.recipe
    prompt = (recipe.batch_size, self.prompt)
    response = (
      recipe.batch_size,
      recipe.rl.samples_per_prompt,
      recipe.sampling.max_tokens,
    )
    return batches.GroupBatch(
      prompt=self.array(*prompt),
      prompt_valid=self.array(*prompt, dtype=jnp.bool_),
      response=self.array(*response),
      response_valid=self.array(*response, dtype=jnp.bool_),
    )

  def rated(self) -> tuple[Any, Any]:
    """Tokens and valid of the labeler's prompts, whole."""
    recipe = self.recipe
    columns = self.prompt + recipe.sampling.max_tokens + recipe.rating_tokens
    rows = recipe.rows("policy")
    return (
      self.array(rows, columns),
      self.array(rows, columns, dtype=jnp.bool_),
    )

  def rated_apart(
    self, model: protocols.LanguageModel
  ) -> tuple[Any, batches.SharedBatch]:
    """The same as `labeling.llm_reward` reads them: each part once.

    Almost all of the constant text stands before the context; its cache, made
    once a run, lies on each device.
    """
    recipe = self.recipe
    rows, ending = recipe.rows("policy"), min(8, recipe.rating_tokens - 1)
    everywhere = mesh_lib.replicated(self.mesh)
    prefix = (recipe.batch_size, self.prompt)
    suffix = (rows, recipe.sampling.max_tokens + ending)
    text = jax.ShapeDtypeStruct((1, recipe.rating_tokens - ending), jnp.int32)
    cache = jax.eval_shape(
      lambda params, tokens: scoring.read_common(
        model, params, tokens, tokens >= 0
      ),
      self.read(model.init),
      text,
    )
    common = jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(
        leaf.shape, leaf.dtype, sharding=everywhere
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
    """Pairs of a reward model's update."""
    response = self.recipe.sequence.max_response
    number = self.array(rows, dtype=jnp.float32)
    return batches.PairBatch(
      first=self.tokens(rows, response),
      second=self.tokens(rows, response),
      label=number,
      weight=number,
    )

  def rollout(self, rows: int) -> tuple[batches.Rollout, Any, Any]:
    """What a policy's update reads: a rollout, advantages and targets."""
    response = self.recipe.sampling.max_tokens
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
