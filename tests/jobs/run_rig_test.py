# SPDX-License-Identifier: Apache-2.0
"""The whole rig in a tiny world: rows, and going on after a stop."""

from __future__ import annotations

import pytest

from rlaif_jax.core import jsonl
from rlaif_jax.core import preemption
from rlaif_jax.jobs import run_rig
from rlaif_jax.reward import ensemble
from rlaif_jax.rl import algorithms
from tests import tiny_rig

RLOO = algorithms.RLConfig(algorithm="rloo", samples_per_prompt=2, beta=0.0)
TWO = ensemble.EnsembleConfig(members=2)
ARMS = (
  run_rig.RigArm(name="mean", ensemble=TWO, rl=RLOO),
  run_rig.RigArm(
    name="lcb", ensemble=TWO, rl=RLOO, aggregate="lcb", coefficient=1.0
  ),
)


def run(directory, **changes):
  settings = dict(
    rig=tiny_rig.CONFIG,
    proxies=tiny_rig.PROXIES,
    search=tiny_rig.SEARCH,
    train=tiny_rig.TRAIN,
    arms=ARMS,
    seeds=(3,),
  )
  return run_rig.run(output_dir=str(directory), **{**settings, **changes})


def test_every_arm_has_its_rows_and_the_same_bytes_after_a_stop(
  tmp_path, monkeypatch
):
  run(tmp_path / "whole")
  text = (tmp_path / "whole" / "rows.jsonl").read_bytes()
  rows = jsonl.parse_rows(tmp_path / "whole" / "rows.jsonl", dict)
  stages = ["proxy"] + 3 * ["search"] + 3 * ["policy"]
  for arm in ARMS:
    own = [r for r in rows if r["arm"] == arm.name]
    assert [r["stage"] for r in own] == stages
  # Arms share the proxy, and the one that pays for deviation scores less.
  proxies = [r["accuracy"] for r in rows if r["stage"] == "proxy"]
  assert proxies[0] == proxies[1]
  first = {r["arm"]: r for r in rows if r.get("step") == 0}
  assert first["mean"]["deviation"] == first["lcb"]["deviation"] > 0
  assert first["lcb"]["proxy"] < first["mean"]["proxy"]
  # Asked to stop before the second arm, then started again.
  calls = iter([False, True])
  with monkeypatch.context() as patch:
    patch.setattr(preemption, "requested", lambda: next(calls))
    with pytest.raises(preemption.Preempted, match="lcb"):
      run(tmp_path / "parts")
  part = (tmp_path / "parts" / "rows.jsonl").read_bytes()
  assert text.startswith(part) and len(part) < len(text)
  run(tmp_path / "parts")
  assert (tmp_path / "parts" / "rows.jsonl").read_bytes() == text


def test_arms_have_their_own_names(tmp_path):
  with pytest.raises(ValueError, match="names"):
    run(tmp_path, arms=ARMS[:1] * 2)
  with pytest.raises(ValueError, match="median"):
    run_rig.RigArm(name="x", ensemble=TWO, rl=RLOO, aggregate="median")
