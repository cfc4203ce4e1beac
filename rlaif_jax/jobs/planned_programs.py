# SPDX-License-Identifier: Apache-2.0
"""The jitted programs of a run, compiled for a mesh that need not be here.

What `plan` compiles. Each is built by the functions that the jobs use.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Callable, Iterator

import jax
import jax.numpy as jnp

from rlaif_jax.engine import chips
from rlaif_jax.engine import decode
from rlaif_jax.engine import optimizer as optimizer_lib
from rlaif_jax.engine import programs
from rlaif_jax.engine import scoring
from rlaif_jax.engine import step as step_lib
from rlaif_jax.jobs import planned_shapes
from rlaif_jax.jobs import train_sft
from rlaif_jax.models import architectures
from rlaif_jax.ops import sampling as sampling_ops
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
    compiled: (config, are its layers a loop, microbatches, options of the
      compiler) -> compiled.
    scan_layers: layers are a loop in the run.
    microbatches: of the run.
    held: bytes on each device of what is there too but not its argument.
    has_hidden_loops: the compiler may make loops where none was written.
  """

  name: str
  runs: int
  config: architectures.Config
  compiled: Callable[..., Any]
  held: float
  scan_layers: bool = False
  microbatches: int = 1
  has_hidden_loops: bool = False


def measure(
  program: Program, chip: chips.Chip, *, whole: bool, note: Any
) -> programs.Cost:
  """What a program costs, of shallow models with the layers of all.

  The compiler counts the body of a loop once, so FLOPs, bytes and collectives
  are always those of programs without loops: one microbatch, layers one by
  one. Memory is that of the program as it runs, of shallow models unless
  `whole`.

  Args:
    program: from `programs_of`.
    chip: for rates.
    whole: compile the program in full depth too, for its memory.
    note: is called with what is compiled next.
  """
  count = program.microbatches
  is_loop = program.scan_layers or count > 1
  as_counted = (False, 1, _WITHOUT_LOOPS if program.has_hidden_loops else None)
  as_run = (program.scan_layers, count, None)

  def cost(config, *how):
    layers = getattr(config, "num_layers", 0)
    purpose = "as it runs" if how == as_run else "to be counted"
    note(f"{program.name}, {layers} layers, {purpose}")
    return programs.cost(program.compiled(config, *how), chip)

  def shallow(how, least):
    return programs.added(
      [
        (times, cost(config, *how))
        for times, config in planned_shapes.shallow(program.config, least)
      ]
    )

  # A loop over one layer is none, so the shallowest has two.
  running = (
    cost(program.config, *as_run)
    if whole
    else shallow(as_run, 2 if is_loop else 1)
  )
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

  def compiled(config, scan_layers, microbatches, options=None):
    init, tx, loss = build(shapes, config, scan_layers)
    step = step_lib.make_train_step(loss, tx, microbatches=microbatches)
    state = step_lib.abstract_state(init, tx, shapes.mesh)
    rows = batch(recipe.rows(phase) * microbatches // count)
    lowered = step.lower(state, rows, shapes.key, None)
    return lowered.compile(compiler_options=options)

  return Program(
    name=name,
    runs=1,
    config=recipe.reward_model if phase == "reward" else recipe.model,
    compiled=compiled,
    held=held,
    scan_layers=recipe.scan_layers,
    microbatches=count,
  )


def _policy_phase(shapes: planned_shapes.Shapes) -> Iterator[Program]:
  """Rollout, reference, score and update; each holds all models."""
  recipe = shapes.recipe
  found = resident(recipe, "policy", shapes.mesh)
  everything = sum(found.values())
  policy = programs.bytes_held(
    shapes.learned(architectures.language(recipe.model).init)
  )
  first, one = _rollout(shapes)
  without = everything - policy
  yield Program(
    name="rollout, prompts",
    runs=1,
    config=recipe.model,
    compiled=first,
    held=without,
  )
  yield Program(
    name="rollout, a token",
    runs=recipe.sampling.max_tokens,
    config=recipe.model,
    compiled=one,
    held=without,
  )
  yield Program(
    name="reference log-probs",
    runs=1,
    config=recipe.model,
    compiled=_reference(shapes),
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


def _rollout(shapes: planned_shapes.Shapes):
  """`compiled` of reading the prompts and of drawing one token."""
  recipe = shapes.recipe
  rows = recipe.rows("policy")
  room = recipe.sampling.max_tokens

  def model_of(config):
    return architectures.language(config, shapes.how_read)

  @functools.cache
  def lowered(config):
    model = model_of(config)

    def prefill(params, prompt, valid):
      read = model.prefill(params, prompt, valid, room)
      samples = recipe.rl.samples_per_prompt
      hidden, cache = scoring.repeat_rows(read, samples)
      return model.logits(params, hidden), cache

    prompt = (recipe.batch_size, shapes.prompt)
    return jax.jit(prefill).lower(
      shapes.learned(model.init),
      shapes.array(*prompt),
      shapes.array(*prompt, dtype=jnp.bool_),
    )

  @functools.cache
  def as_run(config):
    return lowered(config).compile()

  def first(config, _, __, options=None):
    if options is None:
      return as_run(config)
    return lowered(config).compile(compiler_options=options)

  def one(config, _, __, options=None):
    model = model_of(config)

    logits, cache = jax.tree.map(
      lambda leaf, sharding: jax.ShapeDtypeStruct(
        leaf.shape, leaf.dtype, sharding=sharding
      ),
      lowered(config).out_info,
      as_run(config).output_shardings,
    )
    keys = jax.eval_shape(
      lambda: decode.row_keys(jax.random.key(0), jnp.zeros((rows,), jnp.int32))
    )
    step = jax.jit(_token(recipe, model), donate_argnums=3)
    params = shapes.learned(model.init)
    lowered_step = step.lower(params, logits, keys, cache)
    return lowered_step.compile(compiler_options=options)

  return first, one


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


def _reference(shapes: planned_shapes.Shapes):
  """`compiled` of the reference's log-probs."""
  recipe = shapes.recipe

  def compiled(config, _, __, options=None):
    model = architectures.language(config, shapes.how_read)

    def log_probs(params, group):
      return scoring.group_log_probs(
        model, params, group, temperature=recipe.sampling.temperature
      )

    lowered = jax.jit(log_probs).lower(shapes.read(model.init), shapes.group())
    return lowered.compile(compiler_options=options)

  return compiled


def _score(shapes: planned_shapes.Shapes, held: float) -> Program:
  """The reward model's forward, or the labeler's."""
  recipe = shapes.recipe

  def by_reward_model(config, _, __, options=None):
    scalar = architectures.scalar(config, shapes.how_read)
    params = shapes.read(scalar.init)
    lowered = jax.jit(scalar.last_group).lower(params, shapes.group())
    return lowered.compile(compiler_options=options)

  def by_labeler(config, _, __, options=None):
    model = architectures.language(config, shapes.how_read)
    # Ten options whose last is two tokens, the first of them that of "1".
    scores = (*((i,) for i in range(1, 10)), (1, 10))
    read = scoring.option_log_probs
    texts = shapes.rated()
    if model.is_causal:
      read = scoring.shared_option_log_probs
      texts = shapes.rated_apart(model)
    step = jax.jit(lambda params, *texts: read(model, params, *texts, scores))
    lowered = step.lower(shapes.read(model.init), *texts)
    return lowered.compile(compiler_options=options)

  return Program(
    name="score by labeler" if recipe.labeler else "score by reward model",
    runs=1,
    config=recipe.labeler or recipe.reward_model,
    compiled=by_labeler if recipe.labeler else by_reward_model,
    held=held,
  )
