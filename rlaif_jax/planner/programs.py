# SPDX-License-Identifier: Apache-2.0
"""The jitted programs of a run, built by the functions that the jobs use."""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
from typing import TYPE_CHECKING, Callable, Iterator, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from rlaif_jax.core import protocols
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.engine import optimizer as optimizer_lib
from rlaif_jax.engine import scoring
from rlaif_jax.engine import step as step_lib
from rlaif_jax.model_io import pretrained
from rlaif_jax.model_io import trainable
from rlaif_jax.models import architectures
from rlaif_jax.models import lora as lora_lib
from rlaif_jax.planner import chips
from rlaif_jax.planner import program_costs
from rlaif_jax.planner import run_spec
from rlaif_jax.planner import shapes as shapes_lib
from rlaif_jax.reward import model as reward_model
from rlaif_jax.rl import rollout as rollout_lib
from rlaif_jax.rl import update as update_lib
from rlaif_jax.sft import loss as sft_loss

if TYPE_CHECKING:
  import optax


class Training(NamedTuple):
  """An update: what it trains, and what it reads.

  Attributes:
    init: (key) -> parameters to train.
    optimizer: of these.
    loss: of a batch.
    frozen: shapes of the parameters that are not trained; None if all are.
    combine: see `step.make_train_step`.
  """

  init: shapes_lib.Init
  optimizer: optax.GradientTransformation
  loss: protocols.LossFn
  frozen: protocols.Params = None
  combine: step_lib.Combine | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
  """A program of a phase, or a part of one.

  Attributes:
    name: name in tables.
    runs: number of runs per update of the phase.
    resident: bytes on each device of arrays that are kept during the run but
      are not its arguments.
    lower: lowers the program.
    pieces: (number of runs, lowered program) of programs that run in sequence;
      used in place of `lower`.
    part: "whole"; or, of a program with a loop whose trip count depends on
      data, "before_loop" or one "iteration".
  """

  name: str
  runs: int
  resident: float
  lower: Callable[[], jax.stages.Lowered] | None = None
  pieces: tuple[tuple[int, jax.stages.Lowered], ...] = ()
  part: str = "whole"


def measure(
  program: Program, chip: chips.Chip, *, for_tpu: bool
) -> program_costs.Cost:
  """Compiles a program and returns its cost on a chip.

  The memory of a part is that of the whole program.
  """
  if program.pieces:
    return program_costs.in_sequence(
      [
        (
          runs,
          program_costs.cost(
            program_costs.compile_program(one, for_tpu=for_tpu), chip
          ),
        )
        for runs, one in program.pieces
      ]
    )
  compiled = _compile(program.lower, for_tpu)
  if program.part == "whole":
    return program_costs.cost(compiled, chip)
  before = program_costs.cost(compiled, chip, trip_count=0)
  if program.part == "before_loop":
    return before
  once = program_costs.cost(compiled, chip, trip_count=1)
  iteration = program_costs.add([(1, once), (-1, before)])
  return program_costs.with_memory_of(iteration, once)


@functools.lru_cache(maxsize=1)
def _compile(
  lower: Callable[[], jax.stages.Lowered], for_tpu: bool
) -> program_costs.CompiledProgram:
  """Compiles once for consecutive parts of one program."""
  return program_costs.compile_program(lower(), for_tpu=for_tpu)


def programs_of(
  spec: run_spec.RunSpec, phase: str, mesh: jax.sharding.Mesh
) -> Iterator[Program]:
  """Yields the programs of a phase ("sft", "reward" or "policy")."""
  shapes = shapes_lib.Shapes(spec, mesh)
  if phase == "sft":
    batch = shapes.tokens(spec.rows(phase), spec.sequence.max_response)
    yield _update("SFT update", phase, shapes, _sft, batch)
  elif phase == "reward":
    batch = shapes.pairs(spec.rows(phase))
    yield _update("reward update", phase, shapes, _reward, batch)
  else:
    yield from _policy_phase(shapes)


def resident_bytes(
  spec: run_spec.RunSpec, phase: str, mesh: jax.sharding.Mesh
) -> dict[str, float]:
  """Returns the bytes of a phase's resident arrays on each device, by name."""
  shapes = shapes_lib.Shapes(spec, mesh)
  build = {"sft": _sft, "reward": _reward, "policy": _policy}[phase]
  model = spec.reward_model if phase == "reward" else spec.models.policy
  training = build(shapes, model)
  state = step_lib.abstract_state(training.init, training.optimizer, mesh)
  found = {
    "trained parameters": program_costs.bytes_per_device(state.params),
    "optimizer state": program_costs.bytes_per_device(state.opt_state),
  }
  if phase == "policy":
    language = architectures.language(model).init
    placement = spec.compute.placement
    reference = shapes.params(language, placement.reference)
    scorer = shapes.params(_scorer_init(spec), spec.models.scorer_placement)
    found["reference"] = program_costs.bytes_per_device(reference)
    found["scorer"] = program_costs.bytes_per_device(scorer)
    if spec.models.labeler_is_policy:
      found["scorer"] = 0
  if training.frozen is not None:
    # The value network's trunk and, in the same placement, the reference are
    # the policy's parameters.
    shared = training.frozen
    if phase == "policy":
      shared = training.frozen["policy"]
      if placement.reference == placement.policy:
        found["reference"] = 0
    found["frozen parameters"] = program_costs.bytes_per_device(shared)
  return found


def _sft(shapes: shapes_lib.Shapes, config: architectures.Config) -> Training:
  functions = pretrained.language_model(
    config, shapes.mesh, shapes.spec.compute
  )
  return _training(shapes, functions, sft_loss.make_loss(functions))


def _reward(
  shapes: shapes_lib.Shapes, config: architectures.Config
) -> Training:
  scalar = pretrained.scalar_model(config, shapes.mesh, shapes.spec.compute)
  return _training(shapes, scalar, reward_model.make_loss(scalar))


def _policy(
  shapes: shapes_lib.Shapes, config: architectures.Config
) -> Training:
  spec = shapes.spec
  row = spec.rl.row
  policy = pretrained.language_model(config, shapes.mesh, shapes.spec.compute)
  models = {"policy": policy}
  value = None
  if row.needs_value:
    value = pretrained.scalar_model(config, shapes.mesh, shapes.spec.compute)
    models["value"] = value
  loss = update_lib.make_loss(policy, value, config=spec.rl)
  parts = {
    name: _training(shapes, functions, loss)
    for name, functions in models.items()
  }
  rest = trainable.join(
    {
      name: trainable.Frozen(part.frozen, part.combine)
      for name, part in parts.items()
    }
  )
  return Training(
    lambda key: {name: part.init(key) for name, part in parts.items()},
    optimizer_lib.join({n: part.optimizer for n, part in parts.items()}),
    loss,
    rest.params,
    rest.combine,
  )


def _training(
  shapes: shapes_lib.Shapes,
  functions: protocols.LanguageModel | protocols.ScalarModel,
  loss: protocols.LossFn,
) -> Training:
  """Returns the update of one model: of all parameters, or of adapters."""
  config = shapes.spec.optimizer
  tx = optimizer_lib.make_optimizer(config, trains_adapters=True)
  if config.lora is None:
    return Training(functions.init, tx, loss)
  frozen = shapes.params(functions.init, shapes.spec.compute.placement.policy)
  has_head = frozen.pop("head", None) is not None

  def init(key):
    adapters = lora_lib.init(key, frozen, config.lora)
    learned = {"adapters": jax.tree.map(_replicated, adapters)}
    if has_head:
      learned["head"] = functions.init(key)["head"]
    return learned

  return Training(init, tx, loss, frozen, trainable.combine(config.lora))


def _replicated(leaf: jax.Array) -> nn.LogicallyPartitioned:
  """Returns a parameter whose axes are on every device as a whole."""
  return nn.LogicallyPartitioned(leaf, (None,) * leaf.ndim)


def _scorer_init(spec: run_spec.RunSpec) -> shapes_lib.Init:
  """Returns `init` of the model that scores responses."""
  if spec.models.labeler is None:
    return architectures.scalar(spec.reward_model).init
  return architectures.language(spec.models.labeler).init


def _update(name, phase, shapes, build, batch, resident=0.0) -> Program:
  """Returns an update on a batch of shapes."""
  spec = shapes.spec

  def lower():
    model = spec.reward_model if phase == "reward" else spec.models.policy
    training = build(shapes, model)
    step = step_lib.make_train_step(
      training.loss,
      training.optimizer,
      microbatches=spec.compute.microbatches,
      combine=training.combine,
    )
    state = step_lib.abstract_state(
      training.init, training.optimizer, shapes.mesh
    )
    return step.lower(state, batch, shapes.key, training.frozen)

  return Program(name=name, runs=1, lower=lower, resident=resident)


def _policy_phase(shapes: shapes_lib.Shapes) -> Iterator[Program]:
  """Yields rollout, reference, score and update; each keeps all models."""
  spec = shapes.spec
  found = resident_bytes(spec, "policy", shapes.mesh)
  everything = sum(found.values())
  init = architectures.language(spec.models.policy).init
  placement = spec.compute.placement
  policy = program_costs.bytes_per_device(shapes.params(init, placement.policy))
  # Each program has the parameters that it reads as arguments.
  resident = everything - policy
  if placement.rollout is not None:
    yield _reshard(shapes, resident)
    resident = everything  # The copy that samples is kept beside the policy.
  sample = functools.partial(_lower_sample, shapes)
  slots = spec.rl.sampling.slots or spec.rows("policy")
  yield Program(
    name="rollout, prefill",
    runs=1,
    lower=sample,
    resident=resident,
    part="before_loop",
  )
  yield Program(
    name="rollout, decode step",
    runs=spec.rl.sampling.max_tokens * math.ceil(spec.rows("policy") / slots),
    lower=sample,
    resident=resident,
    part="iteration",
  )
  yield _finish(shapes, everything - (found["reference"] or policy))
  yield _score(shapes, everything - (found["scorer"] or policy))
  resident = found["reference"] + found["scorer"]
  if spec.optimizer.lora is not None and (spec.rl.row.needs_value):
    # The value network's trunk is an argument of its own, in the same memory.
    resident -= policy
  update = _update(
    "policy update", "policy", shapes, _policy, shapes.rollout(), resident
  )
  yield dataclasses.replace(update, runs=spec.rl.epochs * spec.rl.minibatches)


def _reshard(shapes: shapes_lib.Shapes, resident: float) -> Program:
  """Copies the policy for sampling, one parameter after another."""
  spec = shapes.spec
  init = architectures.language(spec.models.policy).init
  rollout = spec.compute.placement.rollout
  like = shapes.params(init, rollout)
  copies = mesh_lib.array_reshards(shapes.params(init), like, rollout)
  kinds = collections.Counter((copy, tuple(given)) for _, copy, given in copies)
  return Program(
    name="rollout, reshard",
    runs=1,
    pieces=tuple(
      (count, copy.lower(*given)) for (copy, given), count in kinds.items()
    ),
    resident=resident,
  )


def _lower_sample(shapes: shapes_lib.Shapes) -> jax.stages.Lowered:
  """Lowers sampling: the prefill, and then a loop over tokens."""
  spec = shapes.spec
  policy = pretrained.language_model(spec.models.policy, *shapes.forward)
  sample = rollout_lib.make_sample(policy, config=spec.rl, eos_ids=(1,))
  prompts = shapes.prompts(spec.phases.batch_size)
  placement = spec.compute.placement
  params = shapes.params(policy.init, placement.rollout or placement.policy)
  return sample.lower(params, prompts, shapes.key)


def _finish(shapes: shapes_lib.Shapes, resident: float) -> Program:
  """Reference log-probs, old values if the algorithm needs them, advantages."""
  spec = shapes.spec
  row = spec.rl.row
  policy = pretrained.language_model(spec.models.policy, *shapes.forward)
  value = pretrained.scalar_model(spec.models.policy, *shapes.forward)
  placement, params = spec.compute.placement, {}
  if row.needs_value and not row.baseline_at_update:
    params["value"] = shapes.params(value.init, placement.value)
  rereads = rollout_lib.rereads(spec.rl, placement.rollout is not None)
  if rereads:
    params["policy"] = shapes.params(policy.init, placement.policy)

  def lower():
    finish = rollout_lib.make_finish(
      policy, value, config=spec.rl, eos_ids=(1,), rereads=rereads
    )
    prompts, samples = shapes.prompts(spec.phases.batch_size), shapes.samples()
    scores = shapes.array(*samples.mask.shape[:2], dtype=jnp.float32)
    reference = shapes.params(policy.init, placement.reference)
    return finish.lower(params, reference, prompts, samples, scores)

  return Program(
    name="reference, values" if "value" in params else "reference log-probs",
    runs=1,
    lower=lower,
    resident=resident - program_costs.bytes_per_device(params),
  )


def _score(shapes: shapes_lib.Shapes, resident: float) -> Program:
  """The forward pass of the reward model or of the labeler."""
  spec = shapes.spec

  def lower_reward_model():
    scalar = pretrained.scalar_model(spec.reward_model, *shapes.forward)
    params = shapes.params(scalar.init, spec.models.scorer_placement)
    return jax.jit(scalar.last).lower(params, shapes.rollout_texts())

  def lower_labeler():
    model = pretrained.language_model(spec.models.labeler, *shapes.forward)
    # Ten options. The last has two tokens, the first of them that of "1".
    options = (*((i,) for i in range(1, 10)), (1, 10))
    read = scoring.option_log_probs
    texts = shapes.labeler_prompts()
    if model.is_causal:
      read = scoring.shared_option_log_probs
      texts = shapes.shared_labeler_prompts(model)
    step = jax.jit(lambda params, *texts: read(model, params, *texts, options))
    params = shapes.params(model.init, spec.models.scorer_placement)
    return step.lower(params, *texts)

  by_labeler = spec.models.labeler is not None
  return Program(
    name="score by labeler" if by_labeler else "score by reward model",
    runs=1,
    lower=lower_labeler if by_labeler else lower_reward_model,
    resident=resident,
  )
