# SPDX-License-Identifier: Apache-2.0
"""TrainState, and the update step of every training job.

Gradients of weighted sums are added over microbatches and divided once by the
total weight, so unequal token counts do not bias the mean.
"""

from __future__ import annotations

import functools
from typing import Callable, Mapping

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import PyTree
import optax

from rlaif_jax.core import compute as compute_lib
from rlaif_jax.core import masked
from rlaif_jax.core import protocols
from rlaif_jax.engine import mesh as mesh_lib

Metrics = Mapping[str, masked.WeightedSum]
# (learned, frozen) -> parameters that a loss reads
Combine = Callable[[protocols.Params, protocols.Params], protocols.Params]
# (parameters that a loss reads, batch) -> batch
Prepare = Callable[[protocols.Params, protocols.Batch], protocols.Batch]


@flax.struct.dataclass
class TrainState:
  """Parameters, optimizer state and the number of finished updates."""

  step: jax.Array
  params: protocols.Params
  opt_state: PyTree


def init_state(
  init: Callable[[jax.Array], protocols.Params],
  optimizer: optax.GradientTransformation,
  key: jax.Array,
  mesh: jax.sharding.Mesh,
  placement: compute_lib.Placement = compute_lib.PLAIN,
) -> TrainState:
  """Returns the state of parameters that are initialised on the mesh.

  Args:
    init: key -> parameters boxed with logical axis names.
    optimizer: any optax transformation; its state is sharded like the
      parameters.
    key: typed PRNG key.
    mesh: mesh from `mesh.make_mesh`.
    placement: sharding of the parameters.
  """
  params = mesh_lib.init_params(init, key, mesh, placement)
  return state_from_params(params, optimizer, mesh)


def state_from_params(
  params: protocols.Params,
  optimizer: optax.GradientTransformation,
  mesh: jax.sharding.Mesh,
) -> TrainState:
  """Returns the initial state of given parameters, which it then owns.

  Every leaf has the NamedSharding of the update step's outputs, so that the
  second update does not compile again.
  """
  layout = _layout(params, jax.eval_shape(optimizer.init, params), mesh)
  make = jax.jit(
    lambda p: (jnp.zeros((), jnp.int32), optimizer.init(p)),
    out_shardings=(layout.step, layout.opt_state),
  )
  step, opt_state = make(params)
  return TrainState(step=step, params=params, opt_state=opt_state)


def abstract_state(
  init: Callable[[jax.Array], protocols.Params],
  optimizer: optax.GradientTransformation,
  mesh: jax.sharding.Mesh,
) -> TrainState:
  """Returns shapes and shardings of `init_state`; `mesh` may be abstract."""
  params = mesh_lib.abstract_params(init, mesh)
  opt_state = jax.eval_shape(optimizer.init, params)
  step = jax.ShapeDtypeStruct((), jnp.int32)
  return jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=sharding
    ),
    TrainState(step=step, params=params, opt_state=opt_state),
    _layout(params, opt_state, mesh),
  )


def _layout(
  params: protocols.Params, opt_state: PyTree, mesh: jax.sharding.Mesh
) -> TrainState:
  """Returns the sharding of each leaf of a state."""
  everywhere = mesh_lib.replicated(mesh)
  by_name = {
    _names(path): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(params)
  }

  def place(path, leaf):
    # A moment's path ends with the path of its parameter.
    names = _names(path)
    tails = (names[i:] for i in range(len(names)))
    parameter = next((by_name[t] for t in tails if t in by_name), None)
    if parameter is not None and parameter.shape == leaf.shape:
      return parameter.sharding
    return everywhere

  return TrainState(
    step=everywhere,
    params=jax.tree.map(lambda leaf: leaf.sharding, params),
    opt_state=jax.tree_util.tree_map_with_path(place, opt_state),
  )


def _names(path: jax.tree_util.KeyPath) -> tuple[str, ...]:
  return tuple(
    str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k))))
    for k in path
  )


def accumulate_gradients(
  loss_fn: protocols.LossFn,
  params: protocols.Params,
  batch: protocols.Batch,
  key: jax.Array,
  microbatches: int,
) -> tuple[protocols.Params, Metrics]:
  """Returns the exact gradient of the weighted mean loss, and the metrics.

  Raises:
    ValueError: if the rows do not divide into the microbatches.
  """

  def total(p, part, part_key):
    loss, metrics = loss_fn(p, part, part_key)
    return loss.total, {"loss": loss, **metrics}

  gradient = jax.grad(total, has_aux=True)
  if microbatches == 1:
    sums, metrics = gradient(params, batch, key)
  else:
    rows = jax.tree.leaves(batch)[0].shape[0]
    if rows % microbatches:
      raise ValueError(
        f"{rows} rows do not divide into {microbatches} microbatches"
      )
    parts = jax.tree.map(
      lambda x: x.reshape(microbatches, rows // microbatches, *x.shape[1:]),
      batch,
    )
    # All microbatches share the key. A loss derives random numbers from the
    # rows, so that microbatching does not change the result.
    first = jax.tree.map(lambda x: x[0], parts)
    shapes = jax.eval_shape(gradient, params, first, key)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    def add(carry, part):
      return jax.tree.map(jnp.add, carry, gradient(params, part, key)), None

    (sums, metrics), _ = jax.lax.scan(add, zeros, parts)
  weight = jnp.maximum(metrics["loss"].weight, 1e-9)
  return jax.tree.map(lambda g: g / weight, sums), metrics


def _minibatch_orders(
  key: jax.Array, rows: int, epochs: int, minibatches: int
) -> jax.Array:
  """Returns the row indices of each minibatch: a permutation per epoch.

  Raises:
    ValueError: if the rows do not divide into the minibatches.
  """
  if rows % minibatches:
    raise ValueError(
      f"{rows} rows do not divide into {minibatches} minibatches"
    )
  orders = jax.vmap(
    lambda e: jax.random.permutation(jax.random.fold_in(key, e), rows)
  )(jnp.arange(epochs))
  return orders.reshape(epochs * minibatches, rows // minibatches)


def make_train_step(
  loss_fn: protocols.LossFn,
  optimizer: optax.GradientTransformation,
  *,
  microbatches: int = 1,
  epochs: int = 1,
  minibatches: int = 1,
  combine: Combine | None = None,
  prepare: Prepare | None = None,
) -> Callable[..., tuple[TrainState, Metrics]]:
  """Returns the jitted update (state, batch, key, frozen=None) -> (state,
  metrics), which donates the state.

  Args:
    loss_fn: loss of a batch; see `protocols.LossFn`.
    optimizer: any optax transformation.
    microbatches: number of gradient-accumulation steps per update.
    epochs: passes over the batch inside a step (PPO).
    minibatches: updates per pass; each pass shuffles the rows.
    combine: (learned, frozen) -> parameters of the loss, such as adapters
      applied to a model; `frozen` is an argument of each step.
    prepare: adds to a batch what depends on all of its rows, before it is
      divided into microbatches.

  Returns:
    The step. It increments `state.step` by one, whatever `epochs` and
    `minibatches` are. Its attribute `lower` takes shapes instead of arrays and
    returns the lowered program.
  """

  def update(carry, part, key, frozen):
    params, opt_state = carry

    def read(learned):
      return learned if combine is None else combine(learned, frozen)

    def loss(learned, part, key):
      return loss_fn(read(learned), part, key)

    if prepare is not None:
      part = prepare(read(params), part)
    gradients, metrics = accumulate_gradients(
      loss, params, part, key, microbatches
    )
    norm = masked.WeightedSum(optax.global_norm(gradients), jnp.ones(()))
    updates, opt_state = optimizer.update(gradients, opt_state, params)
    params = optax.apply_updates(params, updates)
    metrics = dict(metrics, grad_norm=norm)
    return (params, opt_state), metrics

  def run(state: TrainState, batch, key, frozen):
    carry = (state.params, state.opt_state)
    if epochs * minibatches == 1:
      carry, metrics = update(carry, batch, key, frozen)
    else:
      rows = jax.tree.leaves(batch)[0].shape[0]
      orders = _minibatch_orders(key, rows, epochs, minibatches)

      def one_update(carry, order):
        part = jax.tree.map(lambda x: x[order], batch)
        return update(carry, part, key, frozen)

      carry, stacked = jax.lax.scan(one_update, carry, orders)
      metrics = jax.tree.map(lambda x: jnp.sum(x, axis=0), stacked)
    params, opt_state = carry
    return TrainState(state.step + 1, params, opt_state), metrics

  @functools.cache
  def jitted(shardings, structure):
    state = jax.tree.unflatten(structure, shardings)
    return jax.jit(run, donate_argnums=0, out_shardings=(state, None))

  def program(state: TrainState):
    # Explicit output shardings: the compiler would name an equal sharding
    # differently, and the second call would compile again.
    leaves, structure = jax.tree.flatten(state)
    return jitted(tuple(leaf.sharding for leaf in leaves), structure)

  def step(state: TrainState, batch, key, frozen=None):
    step.compiled = program(state)
    return step.compiled(state, batch, key, frozen)

  step.lower = lambda state, *rest: program(state).lower(state, *rest)
  return step
