# SPDX-License-Identifier: Apache-2.0
"""Planned programs: all of them compile, and cost what a hand count says."""

from __future__ import annotations

import dataclasses
import math
import re

import flax.linen as nn
import jax
import pytest

from rlaif_jax.data import converters
from rlaif_jax.engine import chips
from rlaif_jax.engine import decode
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.engine import optimizer
from rlaif_jax.engine import programs
from rlaif_jax.jobs import planned_programs
from rlaif_jax.models import architectures
from rlaif_jax.models import t5
from rlaif_jax.models import variant
from rlaif_jax.rl import algorithms
from tests import testing

CHIP = chips.CHIPS["TPU v5 lite"]
DECODER = testing.tiny_decoder(
  64, width=32, mlp_dim=96, num_heads=4, num_kv_heads=4, head_dim=8
)
T5 = t5.T5Config(
  vocab_size=32,
  width=16,
  num_heads=2,
  num_layers=1,
  num_decoder_layers=1,
  head_dim=8,
  mlp_dim=16,
  max_length=128,
)


def recipe(model=DECODER, **changes):
  settings = dict(
    model=model,
    reward_model=model,
    labeler=None,
    rating_tokens=8,
    sequence=converters.SequenceConfig(max_context=48, max_response=16),
    sampling=decode.SamplingConfig(max_tokens=12, temperature=0.9),
    rl=algorithms.RLConfig(),
    optimizer=optimizer.OptimizerConfig(name="adamw"),
    batch_size=16,
    microbatches=1,
    remat="none",
    scan_layers=False,
  )
  return planned_programs.Recipe(**{**settings, **changes})


def planned(recipe, text="data:2,fsdp:2,model:2", **steps):
  mesh = mesh_lib.make_mesh(text, jax.devices()[:8])
  steps = planned_programs.Steps(**steps)
  return {p.name: p for p in planned_programs.programs_of(recipe, steps, mesh)}


def test_an_update_costs_six_flops_per_parameter_and_token():
  """6 N D and attention, as in appendix D of arXiv:2001.08361 and B of PaLM."""
  rows, length, response = 16, 64, 16
  c = testing.tiny_decoder(
    256, width=128, mlp_dim=512, num_heads=4, num_kv_heads=4, head_dim=32
  )
  found = planned(recipe(c), "data:8", sft=1)
  cost = programs.cost(found["SFT update"].compile(), CHIP)
  per_layer = 4 * c.width * c.num_heads * c.head_dim + 3 * c.width * c.mlp_dim
  products = c.num_layers * per_layer * rows * length
  # Logits exist for the response alone; scores and their sums for all pairs.
  products += c.width * c.vocab_size * rows * response
  products += c.num_layers * 2 * rows * length**2 * c.num_heads * c.head_dim
  assert cost.flops == pytest.approx(3 * 2 * products / 8, rel=0.1)


@pytest.mark.parametrize("model", [DECODER, T5], ids=["decoder", "t5"])
def test_every_program_of_every_phase_compiles(model):
  found = planned(recipe(model), sft=1, reward=1, policy=1)
  assert list(found) == [
    "SFT update",
    "reward update",
    "rollout, prompts",
    "rollout, a token",
    "reference log-probs",
    "score by reward model",
    "policy update",
  ]
  assert found["rollout, a token"].runs == 12
  for name in ("rollout, a token", "policy update", "reward update"):
    cost = programs.cost(found[name].compile(), CHIP)
    assert cost.flops > 0 and cost.memory > cost.arguments > 0
    assert cost.collectives


def test_the_labeler_may_score_in_the_loop():
  names = planned(recipe(labeler=DECODER), policy=1)
  assert "score by labeler" in names and "score by reward model" not in names
  cost = programs.cost(names["score by labeler"].compile(), CHIP)
  parameters = 2 * (4 * 32 * 32 + 3 * 32 * 96)
  # Twice the parameters per token, half of them on a device of the model axis.
  assert cost.flops > 2 * parameters * 16 * (48 + 12 + 8) / 8


def test_microbatches_are_counted_whole():
  found = {
    count: planned(recipe(microbatches=count), "data:8", sft=1)["SFT update"]
    for count in (1, 2)
  }
  assert found[1].pieces == ()
  whole = programs.cost(found[1].compile(), CHIP)
  ((times, part),) = found[2].pieces
  assert times == 2
  assert 2 * programs.cost(part(), CHIP).flops == pytest.approx(
    whole.flops, rel=0.1
  )


@pytest.mark.parametrize("model", [DECODER, T5], ids=["decoder", "t5"])
def test_layers_in_a_loop_are_counted_from_shallow_models(model):
  """And the same, nearly, as the compiler counts all of them."""
  deep = dataclasses.replace(model, num_layers=5)
  unrolled = planned(recipe(deep), reward=1)["reward update"]
  looped = planned(recipe(deep, scan_layers=True), reward=1)["reward update"]
  whole = programs.cost(unrolled.compile(), CHIP)
  itself = programs.cost(looped.compile(), CHIP)
  pieces = [(t, programs.cost(p(), CHIP)) for t, p in looped.pieces]
  found = programs.added(pieces, whole=itself)
  assert itself.flops < 0.7 * whole.flops
  assert found.flops == pytest.approx(whole.flops, rel=0.02)
  assert found.bytes_accessed == pytest.approx(whole.bytes_accessed, rel=0.05)
  for a, b in zip(found.collectives, whole.collectives, strict=True):
    assert (a.kind, a.count) == (b.kind, b.count)
    assert a.sent_bytes == pytest.approx(b.sent_bytes, rel=0.01)


def test_shallow_models_repeat_all_kinds_of_layers():
  window = variant.Variant(window=4, global_every=3)
  local = dataclasses.replace(DECODER, variant=window, num_layers=12)
  (first, three), (times, six) = planned_programs.shallow(local)
  assert (three.num_layers, six.num_layers) == (3, 6)
  assert (first, times) == (-2, 3)
  uneven = dataclasses.replace(T5, num_layers=4, num_decoder_layers=3)
  found = planned_programs.shallow(uneven)
  assert [
    (times, c.num_layers, c.num_decoder_layers) for times, c in found
  ] == [(-4, 1, 1), (2, 1, 2), (3, 2, 1)]


def test_ppo_updates_several_times():
  rl = algorithms.RLConfig(algorithm="ppo", epochs=2, minibatches=4)
  assert planned(recipe(rl=rl), policy=1)["policy update"].runs == 8


@pytest.mark.parametrize("counts", [{}, {"sft": -1, "reward": 2}])
def test_a_plan_of_nothing_is_an_error(counts):
  with pytest.raises(ValueError, match="plan at least one"):
    planned_programs.Steps(**counts)


def test_without_a_value_network_there_is_none():
  rl = algorithms.RLConfig(algorithm="rloo", samples_per_prompt=2)
  small = dataclasses.replace(recipe(rl=rl), remat="full")
  program = planned(small, "data:8", policy=1)["policy update"]
  with_value = planned(recipe(), "data:8", policy=1)["policy update"]
  one, two = (
    programs.cost(p.compile(), CHIP).arguments for p in (program, with_value)
  )
  assert one < two


@pytest.mark.parametrize("scan_layers", [False, True])
@pytest.mark.parametrize("model", [DECODER, T5], ids=["decoder", "t5"])
def test_split_parameters_come_one_at_a_time_and_activations_never(
  model, scan_layers
):
  """What is gathered in an update is a parameter, whole or its model part."""
  deep = dataclasses.replace(model, num_layers=3)
  update = planned(
    recipe(deep, remat="full", scan_layers=scan_layers),
    "fsdp:4,model:2",
    sft=1,
  )["SFT update"]
  text = update.compile().as_text()
  params = jax.eval_shape(
    lambda key: nn.unbox(architectures.language(deep).init(key)),
    jax.random.key(0),
  )
  largest = max(leaf.size for leaf in jax.tree.leaves(params))
  # The lookup of embeddings aside, which moves this device's own rows.
  gathered = [
    math.prod(map(int, re.search(r"\[([\d,]+)\]", line)[1].split(",")))
    for line in text.splitlines()
    if " all-gather(" in line and "(_take)" not in line
  ]
  assert gathered and max(gathered) <= largest
