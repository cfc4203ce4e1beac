# SPDX-License-Identifier: Apache-2.0
"""The two programs that a rollout is planned by: its prompts, and a token."""

from __future__ import annotations

import functools
from typing import Any, Callable

import jax
import jax.numpy as jnp

from rlaif_jax.engine import decode
from rlaif_jax.engine import programs
from rlaif_jax.engine import scoring
from rlaif_jax.jobs import planned_shapes
from rlaif_jax.models import architectures
from rlaif_jax.ops import sampling as sampling_ops


def lowered(
  shapes: planned_shapes.Shapes,
) -> tuple[Callable[..., Any], Callable[..., Any]]:
  """Reading the prompts, and drawing one token after them.

  Each is a function of (config, are layers a loop, microbatches), of which the
  last two change nothing, to what has `as_text` and `compile`.
  """
  recipe = shapes.recipe
  room = recipe.sampling.max_tokens

  @functools.cache
  def prompts(config):
    model = architectures.language(config, shapes.how_read)

    def prefill(params, prompt, valid):
      read = model.prefill(params, prompt, valid, room)
      samples = recipe.rl.samples_per_prompt
      hidden, cache = scoring.repeat_rows(read, samples)
      return model.logits(params, hidden), cache

    prompt = (recipe.batch_size, shapes.prompt)
    read = jax.jit(prefill).lower(
      shapes.sampled(model.init),
      shapes.array(*prompt),
      shapes.array(*prompt, dtype=jnp.bool_),
    )
    return _Prompts(read)

  return (
    lambda config, _, __: prompts(config),
    lambda config, _, __: _Token(shapes, config, prompts(config)),
  )


class _Prompts:
  """Reading the prompts; compiled once as it runs, also for what follows."""

  def __init__(self, lowered: Any):
    self.as_text = lowered.as_text
    self.out_info = lowered.out_info
    self._compile = lowered.compile

  def compile(self, compiler_options: Any = None) -> Any:
    """Remembers what will run."""
    if compiler_options is None:
      return self.as_run
    compiled = self._compile(compiler_options=compiler_options)
    if programs.changes_nothing(compiler_options):
      self.as_run = compiled
    return compiled

  @functools.cached_property
  def as_run(self) -> Any:
    return self._compile()


class _Token:
  """Drawing one token of each row and reading it, after the prompts.

  Keys and values lie as the compiler laid them out when the prompts were read,
  so to compile this the program of the prompts is compiled first.
  """

  def __init__(
    self, shapes: planned_shapes.Shapes, config: Any, prompts: _Prompts
  ):
    self._shapes = shapes
    self._model = architectures.language(config, shapes.how_read)
    self._prompts = prompts

  def as_text(self) -> str:
    """Of both programs, this one with keys and values anywhere."""
    after = self._lower(self._prompts.out_info)
    return self._prompts.as_text() + after.as_text()

  def compile(self, compiler_options: Any = None) -> Any:
    placed = jax.tree.map(
      lambda leaf, sharding: jax.ShapeDtypeStruct(
        leaf.shape, leaf.dtype, sharding=sharding
      ),
      self._prompts.out_info,
      self._prompts.as_run.output_shardings,
    )
    return self._lower(placed).compile(compiler_options=compiler_options)

  def _lower(self, read):
    logits, cache = read
    rows = self._shapes.recipe.rows("policy")
    keys = jax.eval_shape(
      lambda: decode.row_keys(jax.random.key(0), jnp.zeros((rows,), jnp.int32))
    )
    token = _token(self._shapes.recipe, self._model)
    params = self._shapes.sampled(self._model.init)
    step = jax.jit(token, donate_argnums=3)
    return step.lower(params, logits, keys, cache)


def _token(recipe: planned_shapes.Recipe, model: Any):
  """What draws a token of each row, and reads it."""

  def token(params, logits, keys, cache):
    drawn, _ = sampling_ops.sample(
      keys,
      logits,
      temperature=recipe.sampling.temperature,
      top_k=recipe.sampling.top_k,
      top_p=recipe.sampling.top_p,
    )
    here = jnp.ones((len(drawn), 1), bool)
    hidden, cache = model.extend(params, drawn[:, None], here, cache)
    return model.logits(params, hidden[:, -1]), cache

  return token
