# SPDX-License-Identifier: Apache-2.0
"""The arrays of a planned run, as shapes with shardings."""

from __future__ import annotations

from typing import Callable

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from rlaif_jax.core import batches
from rlaif_jax.core import compute as compute_lib
from rlaif_jax.core import protocols
from rlaif_jax.engine import decode
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.engine import prefix_sharing
from rlaif_jax.models import architectures
from rlaif_jax.planner import run_spec
from rlaif_jax.rl import algorithms

Init = Callable[[jax.Array], PyTree]


class Shapes:
  """Shapes of parameters and batches; batches are sharded over their rows.

  Attributes:
    spec: the run that is planned.
    mesh: the mesh that the shardings refer to.
    prompt: columns of a prompt; the text around a context is part of them.
    key: shape of a random key.
    forward: mesh and compute of models that are loaded and not trained.
  """

  def __init__(self, spec: run_spec.RunSpec, mesh: jax.sharding.Mesh):
    self.spec = spec
    self.mesh = mesh
    self._rows = mesh_lib.batch_sharding(mesh)
    self.prompt = spec.sequence.max_context
    self.key = jax.eval_shape(lambda: jax.random.key(0))
    attention = spec.compute.attention
    self.forward = mesh, compute_lib.ComputeConfig(attention=attention)

  def params(
    self,
    init: Init,
    placement: compute_lib.Placement | None = compute_lib.PLAIN,
  ) -> PyTree[jax.ShapeDtypeStruct]:
    """Returns the parameters of a model; None is the plain placement."""
    placement = placement or compute_lib.PLAIN
    return mesh_lib.abstract_params(init, self.mesh, placement)

  def array(
    self, *shape: int, dtype: jax.typing.DTypeLike = jnp.int32
  ) -> jax.ShapeDtypeStruct:
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

  def samples(self) -> decode.SampledResponses:
    """Returns the sampled responses of a rollout, [B, N, R]."""
    shape = self._response_shape
    return decode.SampledResponses(
      response=self.array(*shape),
      mask=self.array(*shape, dtype=jnp.float32),
      log_probs=self.array(*shape, dtype=jnp.float32),
    )

  @property
  def _response_shape(self) -> tuple[int, int, int]:
    rl = self.spec.rl
    rows = self.spec.phases.batch_size
    return rows, rl.samples_per_prompt, rl.sampling.max_tokens

  def group(self, *response: int) -> batches.GroupBatch:
    """Returns prompts with responses of shape [B, N, R]."""
    prompt = (response[0], self.prompt)
    return batches.GroupBatch(
      prompt=self.array(*prompt),
      prompt_valid=self.array(*prompt, dtype=jnp.bool_),
      response=self.array(*response),
      response_valid=self.array(*response, dtype=jnp.bool_),
    )

  def rollout_texts(self) -> batches.GroupBatch:
    """Returns the prompts of a rollout with their responses."""
    return self.group(*self._response_shape)

  def labeler_prompts(
    self,
  ) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """Returns tokens and valid of the labeler's whole prompts."""
    spec = self.spec
    columns = self.prompt + spec.rl.sampling.max_tokens
    columns += spec.models.labeler_tokens
    rows = spec.rows("policy")
    return (
      self.array(rows, columns),
      self.array(rows, columns, dtype=jnp.bool_),
    )

  def shared_labeler_prompts(
    self, model: protocols.LanguageModel
  ) -> tuple[PyTree, prefix_sharing.SharedPrompts]:
    """Returns the labeler's prompts as `labeling.llm_reward` reads them.

    Each shared part is read once. Almost all of the constant text precedes the
    context; its cache is computed once per run and replicated.
    """
    spec = self.spec
    constant = spec.models.labeler_tokens
    rows, ending = spec.rows("policy"), min(8, constant - 1)
    replicated = mesh_lib.replicated(self.mesh)
    prefix = (spec.phases.batch_size, self.prompt)
    suffix = (rows, spec.rl.sampling.max_tokens + ending)
    text = jax.ShapeDtypeStruct((1, constant - ending), jnp.int32)
    cache = jax.eval_shape(
      lambda params, tokens: prefix_sharing.prefill_prefix(
        model, params, tokens, tokens >= 0
      ),
      self.params(model.init, spec.models.scorer_placement),
      text,
    )
    common = jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(
        leaf.shape, leaf.dtype, sharding=replicated
      ),
      cache,
    )
    return common, prefix_sharing.SharedPrompts(
      group_tokens=self.array(*prefix),
      group_valid=self.array(*prefix, dtype=jnp.bool_),
      group_ids=self.array(rows),
      suffix=self.array(*suffix),
      suffix_valid=self.array(*suffix, dtype=jnp.bool_),
    )

  def update_flops(self, phase: str) -> float:
    """Returns 6 N D of an update on each device; 0 if it is not that.

    N has the vocabulary only at the columns that get logits. Scores, and what
    is computed twice, are not in it. It is not the FLOPs of encoder-decoders
    and of adapters.
    """
    spec, rl = self.spec, self.spec.rl
    model = spec.reward_model if phase == "reward" else spec.models.policy
    is_decoder = isinstance(
      model, architectures.ARCHITECTURES["decoder"].config
    )
    if spec.optimizer.lora is not None or not is_decoder:
      return 0.0
    rows, texts, length = spec.rows(phase), 1, spec.sequence.max_response
    models = 1
    if phase == "reward":
      texts = 2
    elif phase == "policy":
      texts, length = rl.samples_per_prompt, rl.sampling.max_tokens
      rows = spec.phases.batch_size
      models += rl.row.needs_value
    table = model.vocab_size * model.width
    sizes = jax.eval_shape(architectures.scalar(model).init, self.key)
    body = sum(leaf.size for leaf in jax.tree.leaves(sizes)) - table
    products = models * body * (self.prompt + texts * length)
    products += table * texts * length if phase != "reward" else 0
    return 6.0 * rows * products / self.mesh.size

  def pairs(self, rows: int) -> batches.PairBatch:
    """Returns the pairs of an update of the reward model."""
    number = self.array(rows, dtype=jnp.float32)
    return batches.PairBatch(
      texts=self.group(rows, 2, self.spec.sequence.max_response),
      label=number,
      weight=number,
    )

  def rollout(self) -> algorithms.Rollout:
    """Returns the batch of a policy update."""
    shape, rl = self._response_shape, self.spec.rl
    number = self.array(*shape, dtype=jnp.float32)
    return algorithms.Rollout(
      prompts=self.prompts(shape[0]),
      response=self.array(*shape),
      mask=number,
      log_probs=number,
      ref_log_probs=number,
      values=number,
      score=self.array(*shape[:2], dtype=jnp.float32),
      advantages=number,
      targets=number,
      loss_mask=number if rl.mask_unfinished else None,
      correction=None if rl.ratio.correction == "none" else number,
    )
