# SPDX-License-Identifier: Apache-2.0
"""Programs of a plan: all of them compile, and cost what a hand count says."""

from __future__ import annotations

import dataclasses
import math
import re

import flax.linen as nn
import jax
import pytest

from rlaif_jax.core import compute as compute_lib
from rlaif_jax.core import lora_config
from rlaif_jax.data import converters
from rlaif_jax.planner import chips
from rlaif_jax.engine import decode
from rlaif_jax.planner import hlo_counts
from rlaif_jax.engine import mesh as mesh_lib
from rlaif_jax.engine import optimizer as optimizer_lib
from rlaif_jax.planner import programs
from rlaif_jax.planner import run_spec
from rlaif_jax.models import architectures
from tests import testing
from tests import tiny_plan

CHIP = chips.CHIPS["TPU v5 lite"]
DECODER, T5 = tiny_plan.DECODER, tiny_plan.T5


def planned(spec, phase, text="data:2,fsdp:2,model:2"):
  mesh = mesh_lib.make_mesh(text, jax.devices()[:8])
  found = programs.programs_of(spec, phase, mesh)
  return {program.name: program for program in found}


def cost_of(program):
  return programs.measure(program, CHIP, for_tpu=False)


def test_an_update_costs_six_flops_per_parameter_and_token():
  """6 N D and attention, as in appendix D of arXiv:2001.08361 and B of PaLM."""
  rows, length, response = 16, 64, 16
  c = testing.tiny_decoder(
    256, width=128, mlp_dim=512, num_heads=4, num_kv_heads=4, head_dim=32
  )
  cost = cost_of(planned(tiny_plan.spec(c), "sft", "data:8")["SFT update"])
  per_layer = 4 * c.width * c.num_heads * c.head_dim + 3 * c.width * c.mlp_dim
  products = c.num_layers * per_layer * rows * length
  # Logits exist for the response alone; scores and their sums for all pairs.
  products += c.width * c.vocab_size * rows * response
  products += c.num_layers * 2 * rows * length**2 * c.num_heads * c.head_dim
  assert cost.flops == pytest.approx(3 * 2 * products / 8, rel=0.1)


def test_products_overlapped_with_gathers_are_counted_fully():
  """The compiler hides them in loops where parameters are split."""
  testing.need_tpu_compiler()
  rows, length, response = 64, 512, 64
  c = testing.tiny_decoder(
    1024, width=1024, mlp_dim=4096, num_heads=8, num_kv_heads=8, head_dim=128
  )
  c = dataclasses.replace(c, num_layers=1, dtype="bfloat16", max_length=1024)
  sequence = converters.SequenceConfig(
    max_context=length - response, max_response=response
  )
  settings = tiny_plan.spec(c, sequence=sequence, batch_size=rows)
  mesh = mesh_lib.make_mesh("fsdp:-1", chips.devices_of("v5e:4x4"))
  (program,) = programs.programs_of(settings, "sft", mesh)
  cost = programs.measure(program, CHIP, for_tpu=True)
  products = 4 * c.width**2 + 3 * c.width * c.mlp_dim
  products *= rows * length
  products += c.width * c.vocab_size * rows * response
  products += 2 * rows * length**2 * c.width / 2  # Half are masked.
  assert cost.flops == pytest.approx(3 * 2 * products / 16, rel=0.1)
  # The compiler's own count sees a loop's body once.
  counted = program.lower().compile().cost_analysis()
  assert counted["flops"] < 0.8 * cost.flops


@pytest.mark.parametrize("model", [DECODER, T5], ids=["decoder", "t5"])
def test_every_program_of_every_phase_compiles(model):
  names, costs = [], {}
  for phase in run_spec.PHASES:
    found = planned(tiny_plan.spec(model), phase)
    names += found
    costs |= {name: cost_of(program) for name, program in found.items()}
  assert names == [
    "SFT update",
    "reward update",
    "rollout, prefill",
    "rollout, decode step",
    "reference log-probs",
    "score by reward model",
    "policy update",
  ]
  assert found["rollout, decode step"].runs == 12
  for name in ("rollout, decode step", "policy update", "reward update"):
    cost = costs[name]
    assert cost.flops > 0 and cost.memory > cost.arguments > 0
    assert cost.collectives


@pytest.mark.parametrize("model", [DECODER, T5], ids=["decoder", "t5"])
def test_the_labeler_may_score_in_the_loop(model):
  found = planned(tiny_plan.spec(model, labeler=model), "policy")
  assert "score by reward model" not in found
  cost = cost_of(found["score by labeler"])
  if model is DECODER:
    # Of the second layer all columns have keys and values alone.
    parameters = (4 * 32 * 32 + 3 * 32 * 96) + 2 * 32 * 32
    # Twice the parameters per token, half of them on a device of the model
    # axis; the constant text was read before.
    assert cost.flops > 2 * parameters * 16 * (48 + 12) / 8


def test_microbatches_are_all_counted():
  one, two = (
    cost_of(
      planned(tiny_plan.spec(microbatches=n), "sft", "data:8")["SFT update"]
    )
    for n in (1, 2)
  )
  assert two.flops == pytest.approx(one.flops, rel=0.1)
  assert two.temporary < one.temporary


@pytest.mark.parametrize("model", [DECODER, T5], ids=["decoder", "t5"])
def test_scanned_layers_cost_the_same(model):
  deep = dataclasses.replace(model, num_layers=5)
  unrolled, loop = (
    cost_of(
      planned(tiny_plan.spec(deep, scan_layers=is_loop, remat="full"), "sft")[
        "SFT update"
      ]
    )
    for is_loop in (False, True)
  )
  assert loop.flops == pytest.approx(unrolled.flops, rel=0.05)
  assert loop.arguments == pytest.approx(unrolled.arguments, rel=1e-3)
  sent = [
    sum(c.sent_bytes for c in cost.collectives) for cost in (loop, unrolled)
  ]
  assert sent[0] == pytest.approx(sent[1], rel=0.1)


@pytest.mark.parametrize("model", [DECODER, T5], ids=["decoder", "t5"])
def test_a_rollout_is_prefill_and_decode_steps(model):
  """The products of each program equal a count by hand."""
  found = planned(tiny_plan.spec(model), "policy", "data:8")
  prompts, token = (
    found[f"rollout, {part}"] for part in ("prefill", "decode step")
  )
  assert prompts.lower is token.lower
  before, step = cost_of(prompts), cost_of(token)
  assert before.memory == step.memory
  whole = hlo_counts.count(prompts.lower().compile().as_text(), trip_count=12)
  assert before.flops + 12 * step.flops == pytest.approx(whole.flops)
  if model is DECODER:
    c, rows = model, 2
    weights = c.num_layers * (4 * c.width**2 + 3 * c.width * c.mlp_dim)
    # Each token attends to the whole cache; its drawing is no product.
    read = c.num_layers * 2 * (48 + 12) * c.width
    assert step.flops > 2 * rows * (weights + read + c.width * c.vocab_size)
    # All columns but the last layer's, which needs the last alone.
    assert before.flops > 2 * rows * 48 * weights / c.num_layers
    assert before.flops < 1.2 * 2 * rows * 48 * (weights + 2 * 48 * c.width)


def test_slots_need_more_decode_steps():
  sampling = decode.SamplingConfig(max_tokens=12, slots=6)
  rl = tiny_plan.rl(sampling=sampling)
  found = planned(tiny_plan.spec(rl=rl), "policy", "data:8")
  assert found["rollout, decode step"].runs == 12 * 3
  assert cost_of(found["rollout, decode step"]).flops > 0


def test_ppo_computes_values_with_the_reference():
  old = planned(tiny_plan.spec(rl=tiny_plan.rl(algorithm="ppo")), "policy")
  new = planned(tiny_plan.spec(), "policy")
  values, reference = old["reference, values"], new["reference log-probs"]
  assert cost_of(values).flops > 1.5 * cost_of(reference).flops
  # Both models are its arguments, so they are not resident besides.
  mesh = mesh_lib.make_mesh("data:2,fsdp:2,model:2", jax.devices()[:8])
  found = programs.resident_bytes(tiny_plan.spec(), "policy", mesh)
  less = reference.resident - values.resident
  assert less == pytest.approx(found["trained parameters"] / 2, rel=0.05)


def test_resident_bytes():
  """Each program's arguments and what else is held make the same sum."""
  settings = tiny_plan.spec(**tiny_plan.BFLOAT16)
  mesh = mesh_lib.make_mesh("fsdp:4,model:2", jax.devices()[:8])
  found = programs.resident_bytes(settings, "policy", mesh)
  policy, total = found["reference"] * 2, sum(found.values())
  assert found["trained parameters"] == pytest.approx(2 * policy, rel=0.05)
  moments = found["optimizer state"]  # AdamW keeps two.
  assert moments == pytest.approx(2 * found["trained parameters"], rel=0.05)
  programs_ = planned(settings, "policy", "fsdp:4,model:2")
  held = {name: program.resident for name, program in programs_.items()}
  assert held["rollout, prefill"] == total - policy
  assert held["reference log-probs"] == total - found["reference"]
  assert held["score by reward model"] == total - found["scorer"]
  assert held["policy update"] == found["reference"] + found["scorer"]
  update = cost_of(programs_["policy update"])
  assert update.arguments + held["policy update"] > total
  alone = planned(settings, "sft", "fsdp:4,model:2")["SFT update"]
  assert alone.resident == 0, "what it started from is given away"


def test_the_rollout_copy_is_gathered_once_per_rollout():
  whole = compute_lib.Placement(rules=(("embed", ""),), dtype="bfloat16")
  split = planned(tiny_plan.spec(), "policy", "fsdp:8")
  copied = planned(
    tiny_plan.spec(placement=compute_lib.PlacementConfig(rollout=whole)),
    "policy",
    "fsdp:8",
  )
  assert set(copied) - set(split) == {"rollout, reshard"}

  def sent(program):
    return sum(c.sent_bytes for c in cost_of(program).collectives)

  policy = programs.resident_bytes(
    tiny_plan.spec(), "policy", mesh_lib.make_mesh("fsdp:8", jax.devices()[:8])
  )["reference"]
  # Here the compiler gathers them before the loop; a TPU's does for each token.
  prompts, token = "rollout, prefill", "rollout, decode step"
  assert sent(split[prompts]) + sent(split[token]) > 0.9 * 7 * policy
  assert sent(copied[prompts]) + sent(copied[token]) < 0.05 * policy
  # Half of float32, on every device; 7 of 8 parts come from others.
  copy = cost_of(copied["rollout, reshard"])
  assert sent(copied["rollout, reshard"]) > 0.9 * 7 / 2 * policy
  assert copied[token].resident == split[token].resident + policy
  held = copied["rollout, reshard"].resident
  assert copy.arguments + held == pytest.approx(copied[token].resident)
  # Parameters are moved one by one: what is temporary is of one of them, the
  # largest in float32, where all at once took as much as the whole policy.
  init = architectures.language(DECODER).init
  shapes = jax.tree.leaves(jax.eval_shape(init, jax.random.key(0)))
  assert copy.temporary <= 4 * max(leaf.size for leaf in shapes)


def test_ppo_updates_several_times():
  rl = tiny_plan.rl(algorithm="ppo", epochs=2, minibatches=4)
  assert planned(tiny_plan.spec(rl=rl), "policy")["policy update"].runs == 8


def test_no_value_network_has_no_parameters():
  rl = tiny_plan.rl(algorithm="rloo", samples_per_prompt=2)
  mesh = mesh_lib.make_mesh("data:8", jax.devices()[:8])
  one, two = (
    programs.resident_bytes(settings, "policy", mesh)["trained parameters"]
    for settings in (tiny_plan.spec(rl=rl), tiny_plan.spec())
  )
  assert one == pytest.approx(two / 2, rel=0.05)


@pytest.mark.parametrize(
  "phase, scan_layers, mesh",
  [
    ("sft", True, "fsdp:4,model:2"),
    ("sft", False, "data:2,fsdp:2,model:2"),
    ("policy", True, "fsdp:8"),
  ],
)
@pytest.mark.parametrize("model", [DECODER, T5], ids=["decoder", "t5"])
def test_parameters_are_gathered_one_at_a_time(model, phase, scan_layers, mesh):
  """An update gathers parameters only, whole or their model part."""
  deep = dataclasses.replace(model, num_layers=3)
  settings = tiny_plan.spec(deep, remat="full", scan_layers=scan_layers)
  update = list(planned(settings, phase, mesh).values())[-1]
  text = update.lower().compile().as_text()
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


def test_the_state_is_donated_and_remat_saves_memory():
  """By the compiler's own count."""
  deep = dataclasses.replace(DECODER, num_layers=4)
  temporary = {}
  for remat in ("none", "dots", "full"):
    settings = tiny_plan.spec(deep, remat=remat, scan_layers=True)
    program = planned(settings, "sft", "data:8")["SFT update"]
    found = program.lower().compile().memory_analysis()
    temporary[remat] = found.temp_size_in_bytes
    mesh = mesh_lib.make_mesh("data:8", jax.devices()[:8])
    parts = programs.resident_bytes(settings, "sft", mesh)
    state = parts["trained parameters"] + parts["optimizer state"]
    # The new state reuses the memory of the old one.
    assert found.alias_size_in_bytes == pytest.approx(state, rel=0.01)
  assert temporary["full"] < temporary["dots"] < temporary["none"]


def test_adapters_share_one_trunk():
  """d-RLAIF with a labeler that is the policy: all models are kept once."""
  half = compute_lib.Placement(dtype="bfloat16")
  optimizer = optimizer_lib.OptimizerConfig(
    name="adamw", lora=lora_config.LoraConfig(rank=2)
  )
  settings = tiny_plan.spec(
    labeler=DECODER,
    labeler_is_policy=True,
    optimizer=optimizer,
    scorer_placement=half,
    placement=compute_lib.PlacementConfig(
      policy=half, value=half, reference=half
    ),
  )
  mesh = mesh_lib.make_mesh("fsdp:4,model:2", jax.devices()[:8])
  found = programs.resident_bytes(settings, "policy", mesh)
  full = programs.resident_bytes(
    tiny_plan.spec(labeler=DECODER), "policy", mesh
  )
  assert found["scorer"] == found["reference"] == 0
  # Of float32 policies and values, half a policy remains.
  assert found["frozen parameters"] == pytest.approx(
    full["reference"] / 2, rel=0.05
  )
  assert found["trained parameters"] < found["frozen parameters"]
  total = sum(found.values())
  for name, program in planned(settings, "policy", "fsdp:4,model:2").items():
    cost = cost_of(program)
    if name != "policy update":
      held = program.resident + found["frozen parameters"]
      assert held == pytest.approx(total, rel=1e-6), name
    else:
      # The trunk of the value network is a second argument of the same memory.
      assert program.resident == -found["frozen parameters"]
    assert cost.flops > 0
  sft = planned(settings, "sft", "data:8")["SFT update"]
  whole = planned(tiny_plan.spec(), "sft", "data:8")["SFT update"]
  # A backward pass without the kernels' gradients.
  assert cost_of(sft).flops < 0.85 * cost_of(whole).flops


def test_a_labeler_of_another_size_is_not_the_policy():
  with pytest.raises(ValueError, match="labeler_is_policy is True"):
    run_spec.PlanModels(policy=DECODER, labeler=T5, labeler_is_policy=True)
