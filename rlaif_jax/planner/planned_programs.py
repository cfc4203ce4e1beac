# SPDX-License-Identifier: Apache-2.0
"""The jitted programs of a run, compiled for a mesh that need not be here.

What `plan` compiles. Each is built by the functions that the jobs use.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
from typing import Any, Callable, Iterator

import jax
import jax.numpy as jnp

from rlaif_jax.planner import chips
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.engine import optimizer as optimizer_lib
from rlaif_jax.planner import programs
from rlaif_jax.engine import scoring
from rlaif_jax.engine import step as step_lib
from rlaif_jax.planner import planned_shapes
from rlaif_jax.models import architectures
from rlaif_jax.reward import model as reward_model
from rlaif_jax.rl import algorithms
from rlaif_jax.sft import loss as sft_loss
from rlaif_jax.rl import rollout as rollout_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
  """A program to be measured, or a part of one.

  Fields:
    name: of it.
    runs: per update of the phase.
    held: bytes on each device of what is there too but not its argument.
    lowered: makes what has `compile(compiler_options=)`.
    pieces: (how often, a lowered program) of what are several in truth, one
      after another; `lowered` is then not asked.
    part: "whole"; or of one with a loop that ends when its data say so, what is
      "before" the loop or one "turn" of it.
  """

  name: str
  runs: int
  held: float
  lowered: Callable[[], Any] | None = None
  pieces: tuple[tuple[int, Any], ...] = ()
  part: str = "whole"


def measure(
  program: Program, chip: chips.Chip, *, for_tpu: bool
) -> programs.Cost:
  """What a program costs; it is compiled for that, not run.

  The memory of a part is that of the whole.
  """
  if program.pieces:
    return programs.in_turn(
      [
        (times, programs.cost(programs.compiled(one, for_tpu=for_tpu), chip))
        for times, one in program.pieces
      ]
    )
  compiled = _compiled(program.lowered, for_tpu)
  if program.part == "whole":
    return programs.cost(compiled, chip)
  before = programs.cost(compiled, chip, turns=0)
  if program.part == "before":
    return before
  once = programs.cost(compiled, chip, turns=1)
  turn = programs.added([(1, once), (-1, before)])
  return programs.with_memory_of(turn, once)


@functools.lru_cache(maxsize=1)
def _compiled(lowered: Callable[[], Any], for_tpu: bool) -> programs.Compiled:
  """Parts of a program stand one after another; the last is remembered."""
  return programs.compiled(lowered(), for_tpu=for_tpu)


def programs_of(
  recipe: planned_shapes.Recipe, phase: str, mesh: jax.sharding.Mesh
) -> Iterator[Program]:
  """The programs of a phase ("sft", "reward", "policy")."""
  shapes = planned_shapes.Shapes(recipe, mesh)
  if phase == "sft":

    def batch(rows):
      return shapes.tokens(rows, recipe.sequence.max_response)

    yield _update("SFT update", phase, shapes, _sft, batch)
  elif phase == "reward":
    yield _update("reward update", phase, shapes, _reward, shapes.pairs)
  else:
    yield from _policy_phase(shapes)


def resident(
  recipe: planned_shapes.Recipe, phase: str, mesh: jax.sharding.Mesh
) -> dict[str, float]:
  """Bytes on each device of what a phase holds all the time, by its name."""
  shapes = planned_shapes.Shapes(recipe, mesh)
  build = {"sft": _sft, "reward": _reward, "policy": _policy}[phase]
  model = recipe.reward_model if phase == "reward" else recipe.model
  init, tx, _ = build(shapes, model)
  state = step_lib.abstract_state(init, tx, mesh)
  found = {
    "learned parameters": programs.bytes_held(state.params),
    "moments of the optimizer": programs.bytes_held(state.opt_state),
  }
  if phase == "policy":
    language = architectures.language(model).init
    found["reference"] = programs.bytes_held(shapes.read(language))
    found["scorer"] = programs.bytes_held(shapes.read(_scorer(recipe)))
  return found


def _sft(shapes, config):
  """(init, optimizer, loss) of a model's update; so are the next two."""
  functions = architectures.language(config, shapes.how)
  tx = optimizer_lib.make_optimizer(shapes.recipe.optimizer)
  return functions.init, tx, sft_loss.make_loss(functions)


def _reward(shapes, config):
  scalar = architectures.scalar(config, shapes.how)
  tx = optimizer_lib.make_optimizer(shapes.recipe.optimizer)
  return scalar.init, tx, reward_model.make_loss(scalar)


def _policy(shapes, config):
  recipe = shapes.recipe
  row = algorithms.ALGORITHMS[recipe.rl.algorithm]
  policy = architectures.language(config, shapes.how)
  inits = {"policy": policy.init}
  value = None
  if row.needs_value:
    value = architectures.scalar(config, shapes.how)
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


def _scorer(recipe):
  """`init` of the model that scores."""
  if recipe.labeler is None:
    return architectures.scalar(recipe.reward_model).init
  return architectures.language(recipe.labeler).init


def _update(name, phase, shapes, build, batch, held=0.0) -> Program:
  """An update; `batch` gives the shapes of a number of rows."""
  recipe = shapes.recipe

  def lowered():
    model = recipe.reward_model if phase == "reward" else recipe.model
    init, tx, loss = build(shapes, model)
    step = step_lib.make_train_step(loss, tx, microbatches=recipe.microbatches)
    state = step_lib.abstract_state(init, tx, shapes.mesh)
    return step.lower(state, batch(recipe.rows(phase)), shapes.key, None)

  return Program(name=name, runs=1, lowered=lowered, held=held)


def _policy_phase(shapes: planned_shapes.Shapes) -> Iterator[Program]:
  """Rollout, reference, score and update; each holds all models."""
  recipe = shapes.recipe
  found = resident(recipe, "policy", shapes.mesh)
  everything = sum(found.values())
  init = architectures.language(recipe.model).init
  held = everything - programs.bytes_held(shapes.learned(init))
  if recipe.rollout is not None:
    yield _move(shapes, held)
    held = everything  # The copy that samples is there beside the policy.
  sample = functools.partial(_sample, shapes)
  slots = recipe.sampling.slots or recipe.rows("policy")
  yield Program(
    name="rollout, prompts", runs=1, lowered=sample, held=held, part="before"
  )
  yield Program(
    name="rollout, a token",
    runs=recipe.sampling.max_tokens * math.ceil(recipe.rows("policy") / slots),
    lowered=sample,
    held=held,
    part="turn",
  )
  yield _finish(shapes, everything - found["reference"])
  yield _score(shapes, everything - found["scorer"])
  held = found["reference"] + found["scorer"]
  update = _update(
    "policy update", "policy", shapes, _policy, shapes.rollout, held
  )
  yield dataclasses.replace(
    update, runs=recipe.rl.epochs * recipe.rl.minibatches
  )


def _move(shapes: planned_shapes.Shapes, held: float) -> Program:
  """Making the copy that samples, one parameter after another."""
  init = architectures.language(shapes.recipe.model).init
  ends = (shapes.learned(init), shapes.sampled(init))
  kinds = collections.Counter(zip(*map(jax.tree.leaves, ends), strict=True))
  return Program(
    name="rollout, its copy",
    runs=1,
    pieces=tuple(
      (count, mesh_lib.array_mover(to.sharding, to.dtype).lower(x))
      for (x, to), count in kinds.items()
    ),
    held=held,
  )


def _sample(shapes: planned_shapes.Shapes) -> Any:
  """Reading the prompts, and then a loop that draws tokens."""
  recipe = shapes.recipe
  policy = architectures.language(recipe.model, shapes.how_read)
  sample = rollout_lib.make_sample(
    policy, config=recipe.rl, sampling=recipe.sampling, eos_ids=(1,)
  )
  prompts = shapes.prompts(recipe.batch_size)
  return sample.lower(shapes.sampled(policy.init), prompts, shapes.key)


def _finish(shapes: planned_shapes.Shapes, held: float) -> Program:
  """Log-probs of the reference, values if they are asked for, advantages."""
  recipe = shapes.recipe
  row = algorithms.ALGORITHMS[recipe.rl.algorithm]
  policy = architectures.language(recipe.model, shapes.how_read)
  params = {}
  if row.needs_value and not row.baseline_at_update:
    params["value"] = shapes.learned(architectures.scalar(recipe.model).init)

  def lowered():
    value = architectures.scalar(recipe.model, shapes.how_read)
    finish = rollout_lib.make_finish(
      policy, value, config=recipe.rl, sampling=recipe.sampling
    )
    rows = recipe.rows("policy")
    return finish.lower(
      params,
      shapes.read(policy.init),
      shapes.prompts(recipe.batch_size),
      shapes.drawn(rows),
      shapes.array(rows, dtype=jnp.float32),
    )

  return Program(
    name="reference, values" if params else "reference log-probs",
    runs=1,
    lowered=lowered,
    held=held - programs.bytes_held(params),
  )


def _score(shapes: planned_shapes.Shapes, held: float) -> Program:
  """The reward model's forward, or the labeler's."""
  recipe = shapes.recipe

  def by_reward_model():
    scalar = architectures.scalar(recipe.reward_model, shapes.how_read)
    params = shapes.read(scalar.init)
    return jax.jit(scalar.last_group).lower(params, shapes.group())

  def by_labeler():
    model = architectures.language(recipe.labeler, shapes.how_read)
    # Ten options whose last is two tokens, the first of them that of "1".
    scores = (*((i,) for i in range(1, 10)), (1, 10))
    read = scoring.option_log_probs
    texts = shapes.rated()
    if model.is_causal:
      read = scoring.shared_option_log_probs
      texts = shapes.rated_apart(model)
    step = jax.jit(lambda params, *texts: read(model, params, *texts, scores))
    return step.lower(shapes.read(model.init), *texts)

  return Program(
    name="score by labeler" if recipe.labeler else "score by reward model",
    runs=1,
    lowered=by_labeler if recipe.labeler else by_reward_model,
    held=held,
  )
