# SPDX-License-Identifier: Apache-2.0
"""Schedules by hand, decay of matrices only, optimizers apart."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlaif_jax.core import lora_config
from rlaif_jax.core import masked
from rlaif_jax.core import records
from rlaif_jax.data import converters
from rlaif_jax.engine import optimizer
from rlaif_jax.models import heads
from rlaif_jax.reward import ensemble as ensembles
from rlaif_jax.reward import kinds
from tests import testing


def config(**changes):
  return optimizer.OptimizerConfig(
    **{"name": "adamw", "learning_rate": 0.1, **changes}
  )


def test_schedules_by_hand():
  linear = optimizer.make_schedule(
    config(schedule="linear", warmup_steps=2, decay_steps=12)
  )
  np.testing.assert_allclose(
    [float(linear(s)) for s in (0, 2, 7, 12)], [0.05, 0.1, 0.05, 0], atol=1e-7
  )
  cosine = optimizer.make_schedule(config(schedule="cosine", decay_steps=10))
  np.testing.assert_allclose(
    [float(cosine(s)) for s in (0, 5, 10)], [0.1, 0.05, 0], atol=1e-7
  )
  assert float(optimizer.make_schedule(config())(99)) == pytest.approx(0.1)


def test_rmsprop_by_hand():
  """PyTorch's rule, with its decay rate of 0.99."""
  gradients, moment, expected = [0.5, -2.0, 0.1], 0.0, 3.0
  tx = optimizer.make_optimizer(config(name="rmsprop"))
  params = {"w": jnp.full((1, 1), 3.0)}
  state = tx.init(params)
  for g in gradients:
    moment = 0.99 * moment + 0.01 * g**2
    expected -= 0.1 * g / (moment**0.5 + 1e-8)
    updates, state = tx.update({"w": jnp.full((1, 1), g)}, state, params)
    params = optax.apply_updates(params, updates)
  np.testing.assert_allclose(params["w"], expected, rtol=1e-5)
  other = optimizer.make_optimizer(config(name="rmsprop", beta2=0.5))
  step, _ = other.update({"w": jnp.ones((1, 1))}, other.init(params), params)
  np.testing.assert_allclose(step["w"], -0.1 / 0.5**0.5, rtol=1e-5)
  with pytest.raises(ValueError, match="beta2"):
    optimizer.OptimizerConfig(beta2=0.9)


@pytest.mark.parametrize("name", ["adamw", "adafactor", "rmsprop"])
def test_weight_decay_moves_matrices_only_and_by_the_rate(name):
  params = {"w": jnp.full((4, 4), 2.0), "scale": jnp.ones(4)}
  zero = jax.tree.map(jnp.zeros_like, params)
  tx = optimizer.make_optimizer(config(name=name, weight_decay=0.5))
  updates, _ = tx.update(zero, tx.init(params), params)
  np.testing.assert_allclose(updates["w"], -0.1 * 0.5 * 2.0, rtol=1e-6)
  assert float(jnp.abs(updates["scale"]).max()) == 0


@pytest.mark.parametrize("scaled", [False, True])
def test_an_adafactor_rate_is_absolute_unless_it_is_scaled(scaled):
  params = {"w": jnp.full((4, 4), 2.0), "zero": jnp.zeros((4, 4))}
  gradient = jax.tree.map(jnp.ones_like, params)
  tx = optimizer.make_optimizer(
    config(name="adafactor", parameter_scale=scaled)
  )
  updates, _ = tx.update(gradient, tx.init(params), params)
  size = {"w": 2.0, "zero": 1e-3} if scaled else {"w": 1.0, "zero": 1.0}
  for name, update in updates.items():
    np.testing.assert_allclose(update, -0.1 * size[name], rtol=1e-5)


@pytest.mark.parametrize(
  "name, head_rate, expected",
  [
    ("adafactor", None, optimizer.HEAD_RATE),
    ("adamw", None, 0),
    ("adamw", 3, 3),
  ],
)
def test_a_head_moves_its_output_by_its_own_rate(name, head_rate, expected):
  """Kernels of one head and of an ensemble's heads; tables called head too."""
  params = {
    "decoder": {"head": jnp.zeros((5, 2))},
    "head": {"kernel": jnp.zeros((8, 1)), "bias": jnp.zeros(1)},
    "members": {"head": {"kernel": jnp.zeros((3, 4, 1))}},
  }
  gradient = jax.tree.map(jnp.ones_like, params)
  tx = optimizer.make_optimizer(config(name=name, head_rate=head_rate))
  updates, _ = tx.update(gradient, tx.init(params), params)
  np.testing.assert_allclose(updates["decoder"]["head"], -0.1, rtol=1e-5)
  rate = expected or 0.1
  np.testing.assert_allclose(updates["head"]["bias"], -rate, rtol=1e-5)
  for width, part in ((8, updates), (4, updates["members"])):
    kernel = rate / width if expected else rate
    np.testing.assert_allclose(part["head"]["kernel"], -kernel, rtol=1e-5)


def test_the_norm_is_clipped_before_the_moments():
  params = {"w": jnp.zeros(2)}
  gradient = {"w": jnp.array([30.0, 40.0])}
  tx = optimizer.make_optimizer(config(clip_norm=1.0))
  _, state = tx.update(gradient, tx.init(params), params)
  leaves = [leaf for leaf in jax.tree.leaves(state) if leaf.shape == (2,)]
  np.testing.assert_allclose(leaves[0], [0.06, 0.08], rtol=1e-5)


def test_joint_optimizers_have_their_own_rates():
  params = {"policy": {"w": jnp.ones(1)}, "value": {"w": jnp.ones(1)}}
  tx = optimizer.make_joint_optimizer(
    {"policy": config(), "value": config(learning_rate=0.01)}
  )
  gradient = jax.tree.map(jnp.ones_like, params)
  updates, _ = tx.update(gradient, tx.init(params), params)
  np.testing.assert_allclose(updates["policy"]["w"], [-0.1], rtol=1e-4)
  np.testing.assert_allclose(updates["value"]["w"], [-0.01], rtol=1e-4)
  with pytest.raises(ValueError, match="same"):
    tx.init({"policy": params["policy"]})


@pytest.mark.parametrize(
  "changes, word",
  [
    ({"name": "sgd"}, "name"),
    ({"schedule": "step"}, "schedule"),
    ({"schedule": "cosine"}, "decay_steps"),
    ({"parameter_scale": True}, "parameter_scale"),
    ({"learning_rate": 0.0}, "learning_rate"),
  ],
)
def test_bad_settings_are_named(changes, word):
  with pytest.raises(ValueError, match=word):
    config(**changes)


# Updates: three epochs of 4,096 pairs in batches of 128 are 96 of them, as in
# tldr_reward.gin. Here the trunk is random: the order of two texts is hard to
# read from its states.
STEPS = {"scalar": 96, "ensemble": 96, "value": 288, "difference": 480}
TOKENIZER = testing.CharTokenizer(bos=True)
LABEL = 0.9
FLOOR = -LABEL * np.log(LABEL) - (1 - LABEL) * np.log(1 - LABEL)


def separable_pairs():
  """32 pairs in which the text with "x" is better."""
  rows = []
  for i in range(32):
    good, bad = f"x{i % 7}", f"y{i % 7}"
    swap = i % 2
    rows.append(
      records.Preference(
        id=str(i),
        context=f"c{i % 5}",
        first=bad if swap else good,
        second=good if swap else bad,
        p_first=1 - LABEL if swap else LABEL,
        labeler="",
      )
    )
  sequence = converters.SequenceConfig(max_context=4, max_response=4)
  pairs, _ = converters.encode_preferences(rows, TOKENIZER, sequence)
  return jax.tree.map(jnp.asarray, pairs)


def value_loss(model):
  """Regression of the last value on 1 for the preferred response, else on 0."""

  def loss(params, pairs, key):
    del key
    values = model.last(params, pairs.texts).reshape(-1, 2)
    target = jnp.stack([pairs.label, 1 - pairs.label], axis=1) > 0.5
    errors = (values - target) ** 2
    return masked.weighted_sum(errors, jnp.ones_like(errors)), {}

  return loss


@pytest.mark.parametrize("kind", STEPS)
def test_the_papers_rate_reaches_the_floor_of_the_labels(kind):
  """Adafactor with 1e-5: what every recipe of the paper trains with."""
  model = heads.functions(testing.tiny_decoder(TOKENIZER.vocab_size))
  batch = separable_pairs()
  if kind == "ensemble":
    ensemble = ensembles.EnsembleConfig(kind="heads", members=3)
    params = ensembles.init(model, ensemble, jax.random.key(0))
    loss = ensembles.make_loss(model, ensemble)  # sum of the members'
    batch = ensembles.MemberPairs(pairs=batch, weights=None)
  else:
    params = testing.build(model)
    loss = (
      value_loss(model)
      if kind == "value"
      else kinds.make_loss(kinds.RewardModelConfig(kind=kind), model)
    )
  tx = optimizer.make_optimizer(optimizer.OptimizerConfig())

  @jax.jit
  def train(params):
    def update(carry, _):
      params, state = carry

      def mean(params):
        return loss(params, batch, jax.random.key(0))[0].mean()

      value, gradient = jax.value_and_grad(mean)(params)
      updates, state = tx.update(gradient, state, params)
      return (optax.apply_updates(params, updates), state), value

    return jax.lax.scan(update, (params, tx.init(params)), length=STEPS[kind])[
      1
    ]

  losses = np.asarray(train(params)) / (3 if kind == "ensemble" else 1)
  floor = 0.0 if kind == "value" else FLOOR
  assert losses[0] > floor + 0.25
  assert losses[-1] < floor + 0.03


def test_adapters_that_nobody_trains_are_refused():
  """Trap: an option that nothing reads."""
  adapters = config(lora=lora_config.LoraConfig())
  with pytest.raises(ValueError, match="OptimizerConfig.lora is LoraConfig"):
    optimizer.make_optimizer(adapters)
  optimizer.make_optimizer(adapters, trains_adapters=True)
  both = optimizer.PolicyOptimizers(policy=adapters)
  assert both.lora() == {"policy": adapters.lora, "value": None}
  assert set(both.transforms()) == {"policy", "value"}
