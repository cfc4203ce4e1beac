# SPDX-License-Identifier: Apache-2.0
"""The whole job in a tiny world: its rows, and resuming after a stop."""

from __future__ import annotations

import dataclasses

import pytest

from rlaif_jax.core import jsonl
from rlaif_jax.engine import preemption
from rlaif_jax.dpo import model as dpo_model
from rlaif_jax.experiments import toy_arms
from rlaif_jax.experiments import toy_labels
from rlaif_jax.experiments import toy_pairs
from rlaif_jax.experiments import toy_teachers
from rlaif_jax.jobs import toy_world
from rlaif_jax.reward import ensemble
from rlaif_jax.rl import algorithms
from tests import tiny_toy

RLOO = algorithms.RLConfig(algorithm="rloo", samples_per_prompt=2, beta=0.0)
TWO = ensemble.EnsembleConfig(members=2)
MEAN = toy_arms.ToyProxyArm(name="mean", ensemble=TWO, rl=RLOO)
LCB = dataclasses.replace(MEAN, name="lcb", aggregate="lcb", coefficient=1.0)
GOLD = dataclasses.replace(MEAN, name="gold", reward="gold", rl=None)
DPO = toy_pairs.ToyPairArm(name="DPO", dpo=dpo_model.DPOConfig())
PAIRS = toy_pairs.ToyPairConfig(optimizer=tiny_toy.adam(1e-2), epochs=1)


def run(directory, *arms, **changes):
  settings = dict(
    toy=tiny_toy.CONFIG,
    proxies=tiny_toy.PROXIES,
    search=tiny_toy.SEARCH,
    policies=tiny_toy.TRAIN,
    seeds=(3,),
  )
  return toy_world.run(
    output_dir=str(directory), arms=arms, **{**settings, **changes}
  )


def test_every_arm_has_its_rows_and_the_same_bytes_after_a_stop(
  tmp_path, monkeypatch
):
  run(tmp_path / "whole", MEAN, LCB)
  text = (tmp_path / "whole" / "rows.jsonl").read_bytes()
  rows = jsonl.parse_rows(tmp_path / "whole" / "rows.jsonl", dict)
  stages = ["proxy"] + 3 * ["search"] + 3 * ["policy"]
  for arm in (MEAN, LCB):
    own = [r for r in rows if r["arm"] == arm.name]
    assert [r["stage"] for r in own] == stages
  # Arms share the proxy, and the one that pays for deviation scores less.
  proxies = [r["accuracy"] for r in rows if r["stage"] == "proxy"]
  assert proxies[0] == proxies[1]
  first = {r["arm"]: r for r in rows if r.get("step") == 0}
  assert first["mean"]["deviation"] == first["lcb"]["deviation"] > 0
  assert first["lcb"]["proxy"] < first["mean"]["proxy"]
  # Asked to stop before the second arm, then started again.
  finished = tmp_path / "parts" / "rows.jsonl"
  with monkeypatch.context() as patch:
    patch.setattr(preemption, "requested", finished.exists)
    with pytest.raises(preemption.Preempted, match="lcb"):
      run(tmp_path / "parts", MEAN, LCB)
  part = (tmp_path / "parts" / "rows.jsonl").read_bytes()
  assert text.startswith(part) and len(part) < len(text)
  run(tmp_path / "parts", MEAN, LCB)
  assert (tmp_path / "parts" / "rows.jsonl").read_bytes() == text


def test_gold_as_the_reward_and_arms_on_pairs(tmp_path):
  run(tmp_path, GOLD, DPO, pairs=PAIRS)
  rows = jsonl.parse_rows(tmp_path / "rows.jsonl", dict)
  assert [r["stage"] for r in rows if r["arm"] == "gold"] == [
    "proxy",
    *3 * ["search"],
  ]
  search = [r for r in rows if r["stage"] == "search"]
  assert [r["gold"] for r in search] == [r["proxy"] for r in search]
  assert search[-1]["win_rate"] > search[0]["win_rate"] + 0.2
  pairs = [r for r in rows if r["arm"] == "DPO"]
  assert [r["stage"] for r in pairs] == ["judges", *4 * ["policy"]]


def test_what_makes_no_sense_is_named(tmp_path):
  with pytest.raises(ValueError, match="median"):
    dataclasses.replace(MEAN, aggregate="median")
  with pytest.raises(ValueError, match="silver"):
    dataclasses.replace(MEAN, reward="silver")
  with pytest.raises(ValueError, match="toy_world.pairs is None"):
    run(tmp_path, DPO)
  weak = toy_teachers.ToyTeacherArm(name="weak", teacher="weak")
  with pytest.raises(ValueError, match="toy_world.teachers is None"):
    run(tmp_path, weak)


def test_arms_with_labels_of_their_own_and_arms_of_teachers(tmp_path):
  labels = toy_labels.ToyLabelsConfig(labelers=(toy_labels.ToyLabelerConfig(),))
  right = dataclasses.replace(MEAN, name="right", labels=labels, rl=None)
  weak = toy_teachers.ToyTeacherArm(name="weak", teacher="weak")
  teachers = dataclasses.replace(
    tiny_toy.TEACHERS, prompts=32, updates=2, evaluations=2
  )
  plain = dataclasses.replace(MEAN, name="plain", rl=None)
  run(tmp_path, plain, right, weak, teachers=teachers)
  rows = jsonl.parse_rows(tmp_path / "rows.jsonl", dict)
  proxies = {r["arm"]: r for r in rows if r["stage"] == "proxy"}
  # Pairs of equal gold count half.
  ties = (tiny_toy.data(3).train_margins == 0).mean()
  assert proxies["right"]["label_accuracy"] == pytest.approx(1 - ties / 2)
  assert proxies["right"]["accuracy"] != proxies["plain"]["accuracy"]
  assert [r["step"] for r in rows if r["arm"] == "weak"] == [0, 2]
