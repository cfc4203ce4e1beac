# SPDX-License-Identifier: Apache-2.0
"""Parameters that are trained, those that stay, and the finished model."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlaif_jax.core import compute
from rlaif_jax.core import lora_config
from rlaif_jax.engine import mesh
from rlaif_jax.model_io import initialization
from rlaif_jax.model_io import pretrained
from rlaif_jax.model_io import trainable

LORA = lora_config.LoraConfig(rank=2, targets=(r".*/query/kernel",))
DEVICES = mesh.make_mesh("data:1", jax.devices()[:1])
KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def policy(world):
  return pretrained.load(str(world / "sft" / "model"), "language", DEVICES)


def same(one, other):
  assert jax.tree.structure(one) == jax.tree.structure(other)
  jax.tree.map(np.testing.assert_array_equal, one, other)


def test_all_parameters(policy):
  learned, frozen = trainable.split(policy.params, None, DEVICES, KEY)
  assert learned is policy.params and frozen.combine is frozen.params is None
  assert frozen.attached(learned) is frozen.merged(learned) is learned


def test_adapters_share_the_model(policy):
  learned, frozen = trainable.split(policy.params, LORA, DEVICES, KEY)
  assert set(learned) == {"adapters"} and len(learned["adapters"]) == 1
  same(frozen.merged(learned), policy.params)
  attached = dict(jax.tree_util.tree_leaves_with_path(frozen.attached(learned)))
  for path, leaf in jax.tree_util.tree_leaves_with_path(policy.params):
    assert attached.pop(path) is leaf
  assert len(attached) == 2
  # A step combines by the config alone, before there are parameters.
  combine = trainable.combine(LORA)
  same(combine(learned, frozen.params), frozen.attached(learned))


def test_a_scalar_head_is_trained_in_float32(policy):
  functions = pretrained.scalar_model(policy.config, DEVICES)
  params = initialization.scalar_params(
    functions, policy, DEVICES, KEY, copy=False
  )
  low = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
  learned, frozen = trainable.split(low, LORA, DEVICES, KEY)
  assert set(learned) == {"adapters", "head"}
  assert learned["head"]["kernel"].dtype == jnp.float32
  assert "head" not in frozen.params
  learned["head"]["bias"] += 1.0
  merged = frozen.merged(learned)
  assert merged["head"]["bias"] == 1.0
  same(merged["decoder"], low["decoder"])


def test_adapters_of_a_quantized_model(policy, world):
  pytest.importorskip("qwix")
  small = pretrained.load(
    policy.directory, "language", DEVICES, compute.Placement(dtype="int8")
  )
  with pytest.raises(ValueError, match="set OptimizerConfig.lora"):
    trainable.split(small.params, None, DEVICES, KEY)
  learned, frozen = trainable.split(small.params, LORA, DEVICES, KEY)
  merged = frozen.merged(learned)
  assert jax.tree.structure(merged) == jax.tree.structure(policy.params)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=0.02),
    merged,
    policy.params,
  )


def test_policy_and_value_share_one_model(policy):
  value = pretrained.scalar_model(policy.config, DEVICES)

  def start(policy_lora, value_lora):
    return initialization.policy_params(
      policy,
      value,
      DEVICES,
      key=KEY,
      lora={"policy": policy_lora, "value": value_lora},
    )

  learned, parts = start(LORA, LORA)
  own, other = learned["policy"]["adapters"], learned["value"]["adapters"]
  paths = [
    f"{start}blocks_0/attention/query/kernel" for start in ("", "decoder/")
  ]
  assert [list(own), list(other)] == [[path] for path in paths]
  assert not np.array_equal(own[paths[0]]["a"], other[paths[1]]["a"])
  whole = trainable.join(parts).attached(learned)
  table = policy.params["embedding"]["table"]
  assert whole["policy"]["embedding"]["table"] is table
  found = whole["value"]["decoder"]["embedding"]["table"]
  assert found.unsafe_buffer_pointer() == table.unsafe_buffer_pointer()
  # All of the value, and adapters of the policy.
  learned, parts = start(LORA, None)
  rest = trainable.join(parts)
  assert rest.params["value"] is None
  assert rest.attached(learned)["value"] is learned["value"]
  same(rest.merged(learned)["policy"], policy.params)
  assert trainable.join(start(None, None)[1]).combine is None


def test_trained_parameters_are_float32(policy):
  low = jax.tree.map(lambda x: x.astype(jnp.bfloat16), policy.params)
  with pytest.raises(ValueError, match="is bfloat16.*PlacementConfig.policy"):
    trainable.split(low, None, DEVICES, KEY)
  learned, _ = trainable.split(low, LORA, DEVICES, KEY)
  assert jax.tree.leaves(learned)[0].dtype == jnp.float32


def test_the_files_of_a_finished_model(policy, tmp_path):
  learned, frozen = trainable.split(policy.params, LORA, DEVICES, KEY)
  learned = jax.tree.map(lambda x: x + 0.1, learned)
  finished = trainable.save(
    str(tmp_path), learned, frozen, policy, name="adapted"
  )
  assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()
  loaded = pretrained.load(str(tmp_path / "model"), "language", DEVICES)
  same(loaded.params, finished)
  assert loaded.name == "adapted"
  assert not np.array_equal(
    *(
      x["blocks_0"]["attention"]["query"]["kernel"]
      for x in (finished, policy.params)
    )
  )
