# SPDX-License-Identifier: Apache-2.0
"""The jitted programs of a run, compiled for a mesh that need not be here.

What `plan` compiles. Each is built by the functions that the jobs use.
"""

from __future__ import annotations

import collections
import dataclasses
from typing import Any, Callable, Iterator

import jax

from rlaif_jax.engine import kept_costs
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.engine import optimizer as optimizer_lib
from rlaif_jax.engine import programs
from rlaif_jax.engine import scoring
from rlaif_jax.engine import step as step_lib
from rlaif_jax.jobs import planned_rollout
from rlaif_jax.jobs import planned_shapes
from rlaif_jax.jobs import train_sft
from rlaif_jax.models import architectures
from rlaif_jax.reward import model as reward_model
from rlaif_jax.rl import algorithms


# The TPU compiler gathers split parameters in loops that multiply what has come
# meanwhile, and counts the body of a loop once. This keeps it from doing so.
_WITHOUT_LOOPS = {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
  """A program to be measured.

  Fields:
    name: of it.
    runs: per update of the phase.
    config: of its model.
    lowered: (config, are its layers a loop, microbatches) -> what has
      `as_text()` and `compile(compiler_options=)`.
    pieces: (how often, a lowered program) of what are several in truth, one
      after another; `lowered` is then not asked.
    scan_layers: layers are a loop in the run.
    in_full: compile it in full depth for its memory, which takes no longer.
    microbatches: of the run.
    held: bytes on each device of what is there too but not its argument.
    has_hidden_loops: the compiler may make loops where none was written.
  """

  name: str
  runs: int
  config: architectures.Config
  held: float
  lowered: Callable[[architectures.Config, bool, int], Any] | None = None
  pieces: tuple[tuple[int, Any], ...] = ()
  scan_layers: bool = False
  in_full: bool = False
  microbatches: int = 1
  has_hidden_loops: bool = False


def measure(
  program: Program, kept: kept_costs.KeptCosts, *, whole: bool, note: Any
) -> programs.Cost:
  """What a program costs, of shallow models with the layers of all.

  The compiler counts the body of a loop once, so FLOPs, bytes and collectives
  are always those of programs without loops: one microbatch, layers one by
  one. Memory is that of the program as it runs, of shallow models unless
  `whole` or `in_full`. The latter is for loops over layers, of which shallow
  ones tell little: the TPU compiler treats two turns and three differently.

  Args:
    program: from `programs_of`.
    kept: costs of what was compiled before.
    whole: compile the program in full depth too, for its memory.
    note: is called with what is compiled next.
  """
  if program.pieces:
    said = f"{program.name}, {len(program.pieces)} kinds of parameters"
    return programs.in_turn(
      [
        (times, kept.cost(lowered, None, lambda: note(said)))
        for times, lowered in program.pieces
      ]
    )
  count = program.microbatches
  as_counted = (False, 1, _WITHOUT_LOOPS if program.has_hidden_loops else None)
  as_run = (program.scan_layers, count, None)

  def cost(config, scan_layers, microbatches, options):
    layers = getattr(config, "num_layers", 0)
    how = (scan_layers, microbatches, options)
    purpose = "as it runs" if how == as_run else "to be counted"
    lowered = program.lowered(config, scan_layers, microbatches)
    said = f"{program.name}, {layers} layers, {purpose}"
    return kept.cost(lowered, options, lambda: note(said))

  def shallow(how, least):
    return programs.added(
      [
        (times, cost(config, *how))
        for times, config in planned_shapes.shallow(program.config, least)
      ]
    )

  # A last layer asks less than others: one alone tells nothing of memory.
  in_full = whole or program.in_full
  running = cost(program.config, *as_run) if in_full else shallow(as_run, 2)
  if as_counted == as_run:
    return running
  costs = programs.added([(count, shallow(as_counted, 1))])
  return programs.with_memory_of(costs, running)


def programs_of(
  recipe: planned_shapes.Recipe, phase: str, mesh: jax.sharding.Mesh
) -> Iterator[Program]:
  """The programs of a phase ("sft", "reward", "policy")."""
  shapes = planned_shapes.Shapes(recipe, mesh)
  for program in _of_phase(shapes, phase):
    yield dataclasses.replace(program, has_hidden_loops=shapes.has_hidden_loops)


def _of_phase(shapes: planned_shapes.Shapes, phase: str) -> Iterator[Program]:
  recipe = shapes.recipe
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
  init, tx, _ = build(shapes, model, False)
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


def _sft(shapes, config, scan_layers):
  """(init, optimizer, loss) of a model's update; so are the next two."""
  functions = architectures.language(config, shapes.how(scan_layers))
  tx = optimizer_lib.make_optimizer(shapes.recipe.optimizer)
  return functions.init, tx, train_sft.make_loss(functions, 0.0)


def _reward(shapes, config, scan_layers):
  scalar = architectures.scalar(config, shapes.how(scan_layers))
  tx = optimizer_lib.make_optimizer(shapes.recipe.optimizer)
  return scalar.init, tx, reward_model.make_loss(scalar)


def _policy(shapes, config, scan_layers):
  recipe = shapes.recipe
  row = algorithms.ALGORITHMS[recipe.rl.algorithm]
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


def _scorer(recipe):
  """`init` of the model that scores."""
  if recipe.labeler is None:
    return architectures.scalar(recipe.reward_model).init
  return architectures.language(recipe.labeler).init


def _update(name, phase, shapes, build, batch, held=0.0) -> Program:
  """An update; `batch` gives the shapes of a number of rows."""
  recipe = shapes.recipe
  count = recipe.microbatches

  def lowered(config, scan_layers, microbatches):
    init, tx, loss = build(shapes, config, scan_layers)
    step = step_lib.make_train_step(loss, tx, microbatches=microbatches)
    state = step_lib.abstract_state(init, tx, shapes.mesh)
    rows = batch(recipe.rows(phase) * microbatches // count)
    return step.lower(state, rows, shapes.key, None)

  return Program(
    name=name,
    runs=1,
    config=recipe.reward_model if phase == "reward" else recipe.model,
    lowered=lowered,
    held=held,
    scan_layers=recipe.scan_layers,
    in_full=recipe.scan_layers,
    microbatches=count,
  )


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
  prompts, token = planned_rollout.lowered(shapes)
  yield Program(
    name="rollout, prompts",
    runs=1,
    config=recipe.model,
    lowered=prompts,
    held=held,
  )
  yield Program(
    name="rollout, a token",
    runs=recipe.sampling.max_tokens,
    config=recipe.model,
    lowered=token,
    held=held,
  )
  yield Program(
    name="reference log-probs",
    runs=1,
    config=recipe.model,
    lowered=_reference(shapes),
    held=everything - found["reference"],
  )
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
    config=shapes.recipe.model,
    pieces=tuple(
      (count, mesh_lib.array_mover(to.sharding, to.dtype).lower(x))
      for (x, to), count in kinds.items()
    ),
    held=held,
  )


def _reference(shapes: planned_shapes.Shapes):
  """`lowered` of the reference's log-probs."""
  recipe = shapes.recipe

  def lowered(config, _, __):
    model = architectures.language(config, shapes.how_read)

    def log_probs(params, group):
      return scoring.group_log_probs(
        model, params, group, temperature=recipe.sampling.temperature
      )

    return jax.jit(log_probs).lower(shapes.read(model.init), shapes.group())

  return lowered


def _score(shapes: planned_shapes.Shapes, held: float) -> Program:
  """The reward model's forward, or the labeler's."""
  recipe = shapes.recipe

  def by_reward_model(config, _, __):
    scalar = architectures.scalar(config, shapes.how_read)
    params = shapes.read(scalar.init)
    return jax.jit(scalar.last_group).lower(params, shapes.group())

  def by_labeler(config, _, __):
    model = architectures.language(config, shapes.how_read)
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
    config=recipe.labeler or recipe.reward_model,
    lowered=by_labeler if recipe.labeler else by_reward_model,
    held=held,
  )
