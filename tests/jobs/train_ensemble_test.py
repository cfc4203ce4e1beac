# SPDX-License-Identifier: Apache-2.0
"""Members on one trunk learn, differ, resume after a stop, and score as one."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest

from rlaif_jax.core import jsonl
from rlaif_jax.engine import preemption
from rlaif_jax.data import converters
from rlaif_jax.engine import mesh
from rlaif_jax.model_io import initialization
from rlaif_jax.model_io import pretrained
from rlaif_jax.api import reward_loading
from rlaif_jax.jobs import train_ensemble
from rlaif_jax.models import lora
from rlaif_jax.reward import ensemble
from tests import tiny_world as tiny
from tests.api import reward_loading_test

ADAM = tiny.ADAM
TEXTS = reward_loading_test.TEXTS
HEADS = ensemble.EnsembleConfig(kind="heads", members=3)
LORA = ensemble.EnsembleConfig(
  kind="lora",
  members=3,
  diversity=0.1,
  lora=lora.LoraConfig(rank=2, targets=("decoder/.*/(query|value)/kernel",)),
)


def run(world, directory, config=LORA, **changes):
  settings = dict(
    output_dir=str(directory / "out"),
    labels=tiny.labels_config(directory, 48),
    init_from=str(world / "sft" / "model"),
    ensemble=config,
    optimizer=ADAM,
    adapters=ADAM if config.kind == "lora" else None,
    train=tiny.train_config(epochs=4.0, save_every=5),
  )
  return train_ensemble.run(**{**settings, **changes})


def one_device():
  return mesh.make_mesh("data:-1", jax.devices()[:1])


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory):
  result = {}
  for config in (HEADS, LORA):
    directory = tmp_path_factory.mktemp(config.kind)
    result[config.kind] = directory, run(world, directory, config)
  return result


@pytest.mark.parametrize("kind", ["heads", "lora"])
def test_members_learn_and_differ(trained, kind):
  directory, result = trained[kind]
  assert result["accuracy"] == 1.0 and result["n"] == 32
  assert result["member_accuracy"] == [1.0, 1.0, 1.0]
  rows = jsonl.parse_rows(directory / "out/test_rewards.jsonl", dict)
  assert all((r["first"] > r["second"]) == (r["label"] > 0.5) for r in rows)
  assert min(r["deviation"] for r in rows) > 1e-3
  described = json.loads((directory / "out/model/model.json").read_text())
  assert described["kind"] == "ensemble"
  loaded = pretrained.load(result["model"], "ensemble", one_device())
  assert loaded.ensemble == {"heads": HEADS, "lora": LORA}[kind]
  heads = loaded.params["members"]["head"]["kernel"]
  assert np.abs(heads - heads[:1]).max() > 1e-3
  with pytest.raises(ValueError, match="train_ensemble ensembles"):
    pretrained.load(result["model"], "scalar", one_device())


def test_the_trunk_moves_in_the_first_phase_alone(world, trained, tmp_path):
  start = pretrained.load(str(world / "sft/model"), "language", one_device())

  def trunk(result):
    return pretrained.load(result["model"], "ensemble", one_device()).params[
      "shared"
    ]["decoder"]

  def gap(a, b):
    gaps = jax.tree.map(lambda x, y: np.abs(x - y).max(), a, b)
    return max(map(float, jax.tree.leaves(gaps)))

  one = run(
    world,
    tmp_path,
    dataclasses.replace(LORA, first_phase=0.0),
    train=tiny.train_config(epochs=1.0),
  )
  own = initialization.part_of(trunk(one), start.params)
  assert gap(trunk(one), own) == 0
  assert gap(trunk(trained["lora"][1]), own) > 1e-3
  # Half of 48 labels, four times, in batches of eight: in each phase.
  for name in ("trunk/metrics.jsonl", "metrics.jsonl"):
    rows = jsonl.parse_rows(trained["lora"][0] / "out" / name, dict)
    assert [r["step"] for r in rows] == list(range(1, 13))
  assert {"disagreement", "diversity"} <= set(rows[-1])


def test_stopped_and_started_again_it_ends_the_same(
  world, trained, tmp_path, monkeypatch
):
  for stop in (3, 9):  # In each phase.
    calls = iter([False] * stop + [True])
    with monkeypatch.context() as patch:
      patch.setattr(preemption, "requested", calls.__next__)
      with pytest.raises(preemption.Preempted):
        run(world, tmp_path)
  run(world, tmp_path)
  for name in ("test_rewards.jsonl", "metrics.jsonl", "trunk/metrics.jsonl"):
    whole = trained["lora"][0] / "out" / name
    assert (tmp_path / "out" / name).read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("aggregate", ["wco", "lcb"])
@pytest.mark.parametrize("kind", ["heads", "lora"])
def test_a_policy_reads_members_in_their_units(
  world, trained, tmp_path, kind, aggregate
):
  policy = pretrained.load(str(world / "sft/model"), "language", one_device())
  path = reward_loading_test.stored(tmp_path / "responses.jsonl")
  directory = trained[kind][1]["model"]
  found = reward_loading_test.scores(
    reward_loading.ScorerConfig(
      reward_dir=directory,
      standardize_file=path,
      aggregate=aggregate,
      coefficient=2.0,
    ),
    policy,
  )
  # Each member as a reward model of its own.
  loaded = pretrained.load(directory, "ensemble", one_device())
  prompts, _ = converters.encode_prompts(
    ["a cat and a dog"] * 4, policy.tokenizer, policy.sequence
  )
  response, mask, _ = converters.encode_responses(TEXTS, policy.tokenizer, 8)
  members = []
  for number in range(3):
    own = jax.tree.map(lambda x, n=number: x[n], loaded.params["members"])
    whole = {**loaded.params["shared"], **own}
    if kind == "lora":
      whole = lora.merge(whole, whole.pop("adapters"), LORA.lora)
    group = reward_loading.scorers.reward_scorer(loaded.functions)
    raw = group(whole, prompts, response[:, None], mask[:, None])
    rewards = np.asarray(raw)[:, 0]
    members.append((rewards - rewards.mean()) / rewards.std())
  members = np.stack(members)
  expected = members.min(axis=0)
  if aggregate == "lcb":
    expected = members.mean(axis=0) - 2.0 * members.std(axis=0)
  expected = (expected - expected.mean()) / expected.std()
  np.testing.assert_allclose(found, expected, atol=2e-3)


def test_an_ensemble_needs_units_and_one_model_no_aggregate(
  world, trained, tmp_path
):
  policy = pretrained.load(str(world / "sft/model"), "language", one_device())
  bare = reward_loading.ScorerConfig(reward_dir=trained["heads"][1]["model"])
  with pytest.raises(ValueError, match="standardize_file"):
    reward_loading_test.scores(bare, policy)
  single = reward_loading_test.save_reward(tmp_path / "one", policy, 1)
  alone = reward_loading.ScorerConfig(reward_dir=single, aggregate="wco")
  with pytest.raises(ValueError, match="holds one model"):
    reward_loading_test.scores(alone, policy)
