# SPDX-License-Identifier: Apache-2.0
"""The jitted programs of a run, as shapes on a mesh that need not be here.

What `plan` compiles. Each is built by the functions that the jobs use.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Callable, Iterator, NamedTuple

import jax
import jax.numpy as jnp

from rlaif_jax.core import batches
from rlaif_jax.data import converters
from rlaif_jax.engine import decode
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.engine import optimizer as optimizer_lib
from rlaif_jax.engine import scoring
from rlaif_jax.engine import step as step_lib
from rlaif_jax.jobs import train_sft
from rlaif_jax.models import architectures
from rlaif_jax.models import variant
from rlaif_jax.ops import sampling as sampling_ops
from rlaif_jax.reward import model as reward_model
from rlaif_jax.rl import algorithms


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


class Program(NamedTuple):
  """A program to be measured.

  `compile` compiles it whole, for its memory. Where it has loops, `pieces` are
  programs without any, each with the number of times that its costs go into
  those of the whole (see `shallow`); none: the whole has no loop.
  """

  name: str
  phase: str
  runs: int  # per update of the phase
  compile: Callable[[], Any]
  pieces: tuple[tuple[float, Callable[[], Any]], ...] = ()


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
  microbatches: int
  remat: str
  scan_layers: bool


def shallow(config: architectures.Config) -> list[tuple[float, Any]]:
  """Models of few layers whose costs, so often, add up to those of this one.

  What a step costs is a constant and a part per layer, so a model of one layer
  and another of two tell what any number costs.
  """
  fields = ("num_layers", "num_decoder_layers")
  depths = {f: getattr(config, f) for f in fields if hasattr(config, f)}
  unit = getattr(config, "variant", variant.Variant()).period
  one = dataclasses.replace(config, **dict.fromkeys(depths, unit))
  found = []
  for depth in sorted(set(depths.values()) - {unit}):
    more = {field: 2 * unit for field in depths if depths[field] == depth}
    found.append((depth / unit - 1, dataclasses.replace(one, **more)))
  return [(1 - sum(times for times, _ in found), one), *found]


class _Shapes:
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
    self.how_read = architectures.Execution(rows=self._rows)

  def how(self, scan_layers: bool) -> architectures.Execution:
    """Of models that are updated."""
    return dataclasses.replace(
      self.how_read, remat=self.recipe.remat, scan_layers=scan_layers
    )

  def array(self, *shape: int, dtype: Any = jnp.int32) -> Any:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=self._rows)

  def tokens(self, rows: int, response: int) -> batches.TokenBatch:
    columns = self.prompt + response
    return batches.TokenBatch(
      tokens=self.array(rows, columns),
      valid=self.array(rows, columns, dtype=jnp.bool_),
      weights=self.array(rows, response, dtype=jnp.float32),
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

  def pairs(self, rows: int) -> batches.PairBatch:
    response = self.recipe.sequence.max_response
    number = self.array(rows, dtype=jnp.float32)
    return batches.PairBatch(
      first=self.tokens(rows, response),
      second=self.tokens(rows, response),
      label=number,
      weight=number,
    )

  def rollout(self, rows: int) -> tuple[batches.Rollout, Any, Any]:
    response = self.recipe.sampling.max_tokens
    number = self.array(rows, response, dtype=jnp.float32)
    prompt = self.array(rows, self.prompt)
    valid = self.array(rows, self.prompt, dtype=jnp.bool_)
    prompts = batches.PromptBatch(
      prompt=prompt,
      prompt_valid=valid,
      context=prompt,
      context_valid=valid,
      row=self.array(rows),
    )
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


def programs_of(
  recipe: Recipe, steps: Steps, mesh: jax.sharding.Mesh
) -> Iterator[Program]:
  """All programs of the phases that make updates."""
  shapes = _Shapes(recipe, mesh)
  if steps.sft:

    def sft(config, scan_layers):
      functions = architectures.language(config, shapes.how(scan_layers))
      tx = optimizer_lib.make_optimizer(recipe.optimizer)
      return functions.init, tx, train_sft.make_loss(functions, 0.0)

    def batch(rows):
      return shapes.tokens(rows, recipe.sequence.max_response)

    yield _update("SFT update", "sft", shapes, recipe.model, sft, batch)
  if steps.reward:

    def reward(config, scan_layers):
      scalar = architectures.scalar(config, shapes.how(scan_layers))
      tx = optimizer_lib.make_optimizer(recipe.optimizer)
      return scalar.init, tx, reward_model.make_loss(scalar)

    model = recipe.reward_model
    yield _update(
      "reward update", "reward", shapes, model, reward, shapes.pairs
    )
  if steps.policy:
    yield from _rollout(shapes)
    yield from _score(shapes)
    yield _policy_update(shapes)


def _update(name, phase, shapes, config, build, batch) -> Program:
  """An update, and its pieces: one microbatch, of few layers.

  `build` gives (init, optimizer, loss) of (config, scan_layers); `batch` the
  shapes of a number of rows.
  """
  recipe = shapes.recipe
  count = recipe.microbatches

  def compiled(config, scan_layers, microbatches):
    init, tx, loss = build(config, scan_layers)
    step = step_lib.make_train_step(loss, tx, microbatches=microbatches)
    state = step_lib.abstract_state(init, tx, shapes.mesh)
    rows = batch(recipe.batch_size * microbatches // count)
    return step.lower(state, rows, shapes.key, None).compile()

  parts = shallow(config) if recipe.scan_layers else [(1, config)]
  pieces = tuple(
    (count * times, functools.partial(compiled, part, False, 1))
    for times, part in parts
  )
  return Program(
    name=name,
    phase=phase,
    runs=1,
    compile=lambda: compiled(config, recipe.scan_layers, count),
    pieces=pieces if recipe.scan_layers or count > 1 else (),
  )


def _policy_update(shapes: _Shapes) -> Program:
  recipe = shapes.recipe
  row = algorithms.ALGORITHMS[recipe.rl.algorithm]

  def build(config, scan_layers):
    policy = architectures.language(config, shapes.how(scan_layers))
    inits = {"policy": policy.init}
    value = None
    if row.needs_value:
      value = architectures.scalar(config, shapes.how(scan_layers))
      inits["value"] = value.init
    loss = algorithms.make_loss(
      policy, value, config=recipe.rl, temperature=recipe.sampling.temperature
    )
    tx = optimizer_lib.make_joint_optimizer(
      dict.fromkeys(inits, recipe.optimizer)
    )
    return (
      lambda key: {name: init(key) for name, init in inits.items()},
      tx,
      loss,
    )

  program = _update(
    "policy update", "policy", shapes, recipe.model, build, shapes.rollout
  )
  return program._replace(runs=recipe.rl.epochs * recipe.rl.minibatches)


def _rollout(shapes: _Shapes) -> Iterator[Program]:
  """Prefill, one token, and the reference's log-probs."""
  recipe = shapes.recipe
  rows = recipe.batch_size * recipe.rl.samples_per_prompt
  room = recipe.sampling.max_tokens
  model = architectures.language(recipe.model, shapes.how_read)
  params = mesh_lib.abstract_params(model.init, shapes.mesh)
  prompt = shapes.array(recipe.batch_size, shapes.prompt)
  valid = shapes.array(recipe.batch_size, shapes.prompt, dtype=jnp.bool_)

  def prefill(params, prompt, valid):
    read = model.prefill(params, prompt, valid, room)
    samples = recipe.rl.samples_per_prompt
    hidden, cache = scoring.repeat_rows(read, samples)
    return model.logits(params, hidden), cache

  def token(params, logits, keys, cache):
    drawn, _ = sampling_ops.sample(
      keys,
      logits,
      temperature=recipe.sampling.temperature,
      top_k=recipe.sampling.top_k,
      top_p=recipe.sampling.top_p,
    )
    here = jnp.ones((rows, 1), bool)
    hidden, cache = model.extend(params, drawn[:, None], here, cache)
    return model.logits(params, hidden[:, -1]), cache

  first = jax.jit(prefill).lower(params, prompt, valid)

  def compile_token():
    compiled = first.compile()
    logits, cache = jax.tree.map(
      lambda leaf, sharding: jax.ShapeDtypeStruct(
        leaf.shape, leaf.dtype, sharding=sharding
      ),
      first.out_info,
      compiled.output_shardings,
    )
    keys = jax.eval_shape(
      lambda: decode.row_keys(jax.random.key(0), jnp.zeros((rows,), jnp.int32))
    )
    step = jax.jit(token, donate_argnums=3)
    return step.lower(params, logits, keys, cache).compile()

  yield Program("rollout, prompts", "policy", 1, first.compile)
  yield Program("rollout, a token", "policy", room, compile_token)

  def reference(params, batch):
    return scoring.group_log_probs(
      model, params, batch, temperature=recipe.sampling.temperature
    )

  lowered = jax.jit(reference).lower(params, shapes.group())
  yield Program("reference log-probs", "policy", 1, lowered.compile)


def _score(shapes: _Shapes) -> Iterator[Program]:
  """The reward model's forward, or the labeler's."""
  recipe = shapes.recipe
  rows = recipe.batch_size * recipe.rl.samples_per_prompt
  room = recipe.sampling.max_tokens
  if recipe.labeler is None:
    scalar = architectures.scalar(recipe.reward_model, shapes.how_read)
    params = mesh_lib.abstract_params(scalar.init, shapes.mesh)
    lowered = jax.jit(scalar.last_group).lower(params, shapes.group())
    yield Program("score by reward model", "policy", 1, lowered.compile)
    return
  model = architectures.language(recipe.labeler, shapes.how_read)
  params = mesh_lib.abstract_params(model.init, shapes.mesh)
  columns = shapes.prompt + room + recipe.rating_tokens
  # Ten options whose last is two tokens, the first of them that of "1".
  options = (*((i,) for i in range(1, 10)), (1, 10))
  lowered = jax.jit(
    lambda params, tokens, valid: scoring.option_log_probs(
      model, params, tokens, valid, options
    )
  ).lower(
    params,
    shapes.array(rows, columns),
    shapes.array(rows, columns, dtype=jnp.bool_),
  )
  yield Program("score by labeler", "policy", 1, lowered.compile)
